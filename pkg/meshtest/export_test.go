package meshtest

// DenyStandard is how New completes a policy.
func DenyStandard(text string) string { return denyStandard(text) }
