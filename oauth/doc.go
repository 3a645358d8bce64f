// Package oauth talks to OAuth 2.0 token endpoints: it sends one refresh
// request and judges what comes back.
//
// # One exchange is one request
//
// A refresh token is often single-use, and a request that is sent twice can
// cost the account. So [Client.Send] opens a connection of its own, writes the
// request once, reads one answer and closes. There is no connection pool, no
// redirect, no retry, no guessing of the client authentication, no proxy from
// the environment. A proxy that is configured is binding: when it is down,
// nothing is sent.
//
// # Reading and judging are apart
//
// Send returns the bytes of the answer untouched, so that they can be made
// durable before anything else is done with them. [Client.Judge] is a pure
// function over those bytes and gives the same verdict when they are replayed.
// A verdict never rests on text search in a body: error codes count only where
// a protocol puts them.
//
// # Definitions
//
// A [Definition] says what is known of one platform's endpoint. [Builtin] has
// those of the well-known platforms; [LoadFile] reads a provider file over
// them.
package oauth
