package main

import (
	"fmt"
	"net/url"
)

// issuer is an issuer identifier (RFC 8414 §2). One without a path has its documents where everybody looks first (RFC 8414 §3).
type issuer string

// Check reports what is wrong with the issuer.
func (i *issuer) Check() error {
	u, err := url.Parse(string(*i))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || "https://"+u.Host != string(*i) {
		return fmt.Errorf("%q is not a URL of an issuer, such as https://login.bank.test:8445: https, a host, and nothing after it", string(*i))
	}
	return nil
}
