package main

import "testing"

// The README has the secret be in the environment. Who gives a code means that one.
func TestACodeIsTakenBeforeASecretOfTheEnvironment(t *testing.T) {
	t.Setenv(otpSecretVariable, "TWFB7AHC4323ZZPBIQIW4COBS6TRJCH2")
	code, err := secrets{OTP: "123456"}.code(t.Context(), nil)
	if err != nil || code != "123456" {
		t.Errorf("%q (%v), want the code", code, err)
	}
}
