package oauth

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"

	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
)

type enrolment struct {
	Username   string `json:"username"`
	Password   string `json:"password"`
	OTP        string `json:"otp"`
	Request    string `json:"csr"`
	DeviceName string `json:"device_name"`
}

// enrol certifies the key of a new device. Its owner proves to be the customer with all that there is.
func (h *Handler) enrol(ctx context.Context, r *http.Request) (any, error) {
	var e enrolment
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&e); err != nil {
		return nil, unreadable(err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, invalid("the body cannot be read")
	}
	if !is(namePattern, e.DeviceName) {
		return nil, invalid("the name of the device is empty, too long, or has characters that names do not have")
	}
	request, err := device.ParseRequest([]byte(e.Request))
	if err != nil {
		return nil, err
	}
	username := possible(e.Username)
	proof, err := h.authenticate(ctx, h.limits.enrol, username, username, e.Password, e.OTP)
	if err != nil {
		return nil, err
	}
	d, err := h.Devices.Enrol(ctx, proof, request, e.DeviceName)
	if err != nil {
		return nil, err
	}
	h.Log.InfoContext(ctx, "a device is enrolled", "customer", d.CustomerID, "device", d.ID)
	var chain bytes.Buffer
	for _, der := range append([][]byte{d.Certificate}, h.Authorities...) {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, err
		}
	}
	return created{map[string]any{"client_id": d.ID, "certificate_chain": chain.String()}}, nil
}

// authenticate finds out who somebody is, if they have not tried too often. A user name that nobody can have, or a code that is none, is as wrong as
// another, and takes as long.
func (h *Handler) authenticate(ctx context.Context, limit attempts, who, username, password, otp string) (customer.Proof, error) {
	if wait := limit.take(who); wait > 0 {
		return customer.Proof{}, tooMany(wait)
	}
	if len(password) > maxPassword {
		return customer.Proof{}, invalid("the password is too long")
	}
	return h.Customers.Authenticate(ctx, possible(username), password, otp)
}

// possible returns a user name, or that of nobody for one that nobody can have: all of those have their attempts together, however many and long they are.
func possible(username string) string {
	if !is(usernamePattern, username) {
		return ""
	}
	return username
}

// challenge is the authorization challenge endpoint (draft-ietf-oauth-first-party-apps §5): it takes all that proves the customer at once, so it needs no auth_session.
func (h *Handler) challenge(ctx context.Context, r *http.Request) (any, error) {
	f, err := form(r)
	if err != nil {
		return nil, err
	}
	d, err := h.client(ctx, r, f.Get("client_id"))
	if err != nil {
		return nil, err
	}
	asked, err := scopes(f.Get("scope"))
	if err != nil {
		return nil, err
	}
	switch acr := f.Get("acr_values"); {
	case f.Get("code_challenge_method") != "S256" || !is(challengePattern, f.Get("code_challenge")):
		return nil, invalid("there is no code_challenge of the method S256 (RFC 7636)")
	case acr != "" && acr != grant.ACRDevice && acr != grant.ACROneTime:
		return nil, invalid("there is no such acr")
	case acr == grant.ACROneTime && f.Get("otp") == "":
		return nil, problem{status: http.StatusBadRequest, Code: "insufficient_authorization", Description: "a one-time code is needed (otp)"}
	}
	proof, err := h.authenticate(ctx, h.limits.login, d.ID, f.Get("username"), f.Get("password"), f.Get("otp"))
	if err != nil {
		return nil, err
	}
	if proof.CustomerID != d.CustomerID {
		return nil, customer.ErrWrong // another customer's password; the same answer
	}
	code, err := h.Grants.Authorize(ctx, grant.Request{
		DeviceID: d.ID, Scopes: asked, OTP: proof.Step != 0, Challenge: f.Get("code_challenge"),
	}, proof)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization_code": code}, nil
}
