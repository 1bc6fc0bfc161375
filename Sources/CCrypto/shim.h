// SHA256_Init and its like: the newer EVP interface would link most of the library and has to be initialised.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
