// Package provider is the token provider: it looks tokens up, refreshes each
// account exactly once however many ask, and saves what the token endpoint
// answers before it tells anyone. It puts together what does the work:
//
//	bus ──▶ lookup    answers token requests, from L1, the shared cache or the store
//	        accounts  carries out the operators' verbs
//	          │
//	          ▼
//	        refresh   one flight an account: lease, record, exchange, save
//	          │  └───▶ rotation  decides: pure functions, the state machine
//	          ▼
//	        ledger    the documents: read, changed by compare-and-set, announced
//
// The interfaces of what it talks to are declared where they are used: in
// ledger (store, cache, publisher, sealer) and refresh (lease, journal, token
// endpoint).
package provider
