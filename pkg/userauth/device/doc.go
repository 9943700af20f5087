// Package device is the customer's side of the edge: a device with a key of its own, enrolled at an authorization server, and sessions whose
// access tokens are bound to that key (RFC 8705).
//
//	phone, err := device.Enrol(ctx, server, username, password, code, "phone") // once
//	session, err := phone.Login(ctx, server, username, password, "", "accounts.read")
//	conn, err := grpc.NewClient(target,
//		grpc.WithTransportCredentials(credentials.NewTLS(phone.TLS(roots, "gateway.bank.test"))),
//		grpc.WithPerRPCCredentials(session.PerRPC()))
//
// A one-time code is good once: enrolling uses one up, and so does a log-in with one.
//
// No token and no key is in what these types print or log.
package device
