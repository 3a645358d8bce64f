// Package snippets tests the clients in other languages that docs/protocol.md
// shows (docs/snippets): each against a worker process, with the library that
// it names.
package snippets
