// Package pki makes the certificates of a cluster in K3s' layout: a handful of
// self-signed authorities, shared by all servers, and leaves that each server
// issues for itself at every start.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

const (
	authorityYears = 10
	leafYears      = 1
	// clockSkew is how far in the past a certificate begins, for peers whose
	// clock is behind.
	clockSkew = time.Hour
)

// Authority can sign. PEM is the certificate as it lies on disk: its bytes are
// what a join token's hash is of.
type Authority struct {
	Certificate *x509.Certificate
	PEM         []byte
	key         crypto.Signer
}

// Leaf describes a certificate to issue. SANs may hold addresses and names, with
// empty and repeated ones left out.
type Leaf struct {
	CommonName    string
	Organizations []string
	SANs          []string
	Usages        []x509.ExtKeyUsage
}

// Pair names the two files of a certificate: base.crt and base.key.
func Pair(base string) (certFile, keyFile string) { return base + ".crt", base + ".key" }

// CreateAuthority writes a new authority to base.crt and base.key.
func CreateAuthority(base, commonName string) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// The time makes two clusters' authorities distinguishable, as in K3s.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s@%d", commonName, now.Unix())},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("create authority %s: %w", commonName, err)
	}
	return writePair(base, encodeCertificate(der), key)
}

// LoadAuthority reads what CreateAuthority wrote and checks that the two files
// belong together.
func LoadAuthority(base string) (*Authority, error) {
	certFile, keyFile := Pair(base)
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", certFile, err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, fmt.Errorf("load authority %s: no PEM block", keyFile)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", keyFile, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load authority %s: key does not belong to the certificate", keyFile)
	}
	return &Authority{Certificate: cert, PEM: certPEM, key: key}, nil
}

// Sign returns the chain, in PEM, of a new certificate for a public key.
func (a *Authority) Sign(public any, leaf Leaf) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: leaf.CommonName, Organization: leaf.Organizations},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.AddDate(leafYears, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           leaf.Usages,
	}
	seen := map[string]bool{"": true}
	for _, san := range leaf.SANs {
		if seen[san] {
			continue
		}
		seen[san] = true
		if ip := net.ParseIP(san); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", leaf.CommonName, err)
	}
	return append(encodeCertificate(der), a.PEM...), nil
}

// Issue writes a certificate with a key of its own to base.crt and base.key.
func (a *Authority) Issue(base string, leaf Leaf) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	chain, err := a.Sign(key.Public(), leaf)
	if err != nil {
		return err
	}
	return writePair(base, chain, key)
}

// ParseCertificate reads the first certificate of a PEM bundle.
func ParseCertificate(bundle []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(bundle)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return serial, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writePair(base string, chain []byte, key *ecdsa.PrivateKey) error {
	certFile, keyFile := Pair(base)
	if err := WriteKey(keyFile, key); err != nil {
		return err
	}
	return WriteFile(certFile, chain, 0o644)
}

// NewKey draws a P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	return key, nil
}
