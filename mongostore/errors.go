package mongostore

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/mongo"
)

// ErrCredentials: the server refuses our credentials, or our user may not do
// what the store must. Trying again won't help.
var ErrCredentials = errors.New("the server refuses the credentials")

// credentialCodes are MongoDB's error codes for that.
var credentialCodes = []int{
	13,   // Unauthorized
	18,   // AuthenticationFailed
	334,  // MechanismUnavailable
	8000, // AtlasError: bad auth
}

// explain marks errors that are about our credentials.
func explain(err error) error {
	if refused(err) {
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return err
}

func refused(err error) bool {
	if err == nil {
		return false
	}
	if e, ok := errors.AsType[mongo.ServerError](err); ok && slices.ContainsFunc(credentialCodes, e.HasErrorCode) {
		return true
	}
	// A call that finds the connection pool closed because another one's login
	// was refused gets the driver's reason as text alone.
	return strings.Contains(err.Error(), "(AuthenticationFailed)")
}
