// Package seal encrypts what leaves the process: credentials in the store and
// in the shared cache, answers in the journal. It is Tink's AEAD
// (AES-256-GCM) with a keyset that has one primary key, which seals, and any
// number of older keys, which only open.
//
// # The keyset file
//
// All workers of a fleet share one keyset file. It is JSON with two Tink
// keysets in the clear:
//
//	{
//	  "tokenbus_keyset": 1,
//	  "aead":        { … Tink keyset, AEAD keys … },
//	  "fingerprint": { … Tink keyset, one HMAC-SHA256 PRF key … }
//	}
//
// The file is the secret: whoever has it and a copy of the store has every
// token. [Load] refuses a file that others may read. Keep it where the
// fleet's other secrets are, and keep a copy: without it every account must
// log in again.
//
// The fingerprint key is apart from the sealing keys because fingerprints must
// compare equal for as long as documents live, through every rotation of the
// sealing keys. It can't decrypt anything.
//
// # Rotation
//
// [Rotate] makes a new primary key at once. In a running fleet a worker that
// still has the old file can't open what a worker with the new file seals, so
// there it goes in two steps: [Stage] adds a key that opens and doesn't seal
// yet; when every worker runs with that file, [Promote] makes it the primary.
// Documents that were sealed with an older key stay readable;
// [Sealer.Current] tells them from new ones.
//
// AES-GCM with random nonces is safe for 2^32 messages under one key. A fleet
// that writes a million documents a day comes there after eleven years; a
// yearly rotation is more than enough.
//
// # Keys in a KMS
//
// Tink reads a keyset that is encrypted with a key of a KMS by the same call
// with another argument: keyset.Read with the KMS's AEAD in place of
// insecurecleartextkeyset.Read. The file then holds two encrypted keysets and
// is no longer a secret by itself. Only [Parse] and the writer of this package
// know how the keysets are kept.
package seal
