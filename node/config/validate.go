package config

// TokenChecker says what is wrong with a network token, without showing any of it. nil takes any text.
type TokenChecker func(token string) error

// Options of Validate.
type Options struct {
	CheckToken TokenChecker
}

// Validate reads one file as if it were the whole configuration. name stands in the messages. The error is an
// *InvalidError; nothing is ever written or fetched.
func Validate(name string, data []byte, opts Options) ([]Warning, error) {
	d := decoder{config: defaults(), checkToken: opts.CheckToken}
	if root := parse(name, data, &d.report); root != nil {
		d.decode(root)
		if len(d.problems) == 0 {
			d.implied()
		}
	}
	return d.told(), d.err()
}
