package k3s

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
)

var errProtobuf = errors.New("not a protobuf message")

// protobufField is one field of a message: a number, or bytes.
type protobufField struct {
	number uint64
	value  uint64
	bytes  []byte
}

// eachField calls fn for the fields of a message, in their order.
func eachField(message []byte, fn func(protobufField) error) error {
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		if n <= 0 {
			return errProtobuf
		}
		message = message[n:]
		f := protobufField{number: key >> 3}
		switch key & 7 {
		case 0:
			if f.value, n = binary.Uvarint(message); n <= 0 {
				return errProtobuf
			}
		case 1:
			n = 8
		case 2:
			length, m := binary.Uvarint(message)
			if m <= 0 || length > uint64(len(message)-m) {
				return errProtobuf
			}
			f.bytes, n = message[m:m+int(length)], m+int(length)
		case 5:
			n = 4
		default:
			return errProtobuf
		}
		if n > len(message) {
			return errProtobuf
		}
		message = message[n:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// decodeMembers reads an etcdserverpb.MemberListResponse.
func decodeMembers(message []byte) ([]EtcdMember, error) {
	var members []EtcdMember
	err := eachField(message, func(f protobufField) error {
		if f.number != 2 {
			return nil
		}
		if len(members) == maxEtcdMembers {
			return fmt.Errorf("more than %d members", maxEtcdMembers)
		}
		m, err := decodeMember(f.bytes)
		members = append(members, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	return members, nil
}

// decodeMember reads an etcdserverpb.Member.
func decodeMember(message []byte) (m EtcdMember, err error) {
	err = eachField(message, func(f protobufField) error {
		switch f.number {
		case 1:
			m.ID = f.value
		case 2:
			m.Name = string(f.bytes)
		case 3:
			if u, err := url.Parse(string(f.bytes)); err == nil && m.Host == "" {
				m.Host = u.Hostname()
			}
		case 4:
			if len(m.clients) < 4 {
				m.clients = append(m.clients, string(f.bytes))
			}
		case 5:
			m.Learner = f.value != 0
		}
		return nil
	})
	return m, err
}

// hasLeader reads an etcdserverpb.StatusResponse.
func hasLeader(message []byte) bool {
	leader := false
	err := eachField(message, func(f protobufField) error {
		leader = leader || f.number == 4 && f.value != 0
		return nil
	})
	return err == nil && leader
}
