/* OpenSSL's own RSA-OAEP private-key operation, for benches/open.rs: reads a PKCS#8 key and a ciphertext, then for each count on
 * standard input does so many decryptions (SHA-256 for OAEP and MGF1) and prints the nanoseconds that they took. */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static unsigned char sealed[1024], opened[1024];

static int check(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "open.c: %s\n", what);
        exit(1);
    }
    return good;
}

int main(int argc, char **argv) {
    check(argc == 3, "usage: open KEY CIPHERTEXT");
    FILE *file = fopen(argv[1], "r");
    check(file != NULL, "no key file");
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    check(key != NULL, "no key in the file");
    fclose(file);
    file = fopen(argv[2], "r");
    check(file != NULL, "no ciphertext file");
    size_t sealed_length = fread(sealed, 1, sizeof sealed, file);
    fclose(file);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    check(EVP_PKEY_decrypt_init(context) == 1, "init");
    check(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) == 1, "padding");
    check(EVP_PKEY_CTX_set_rsa_oaep_md(context, EVP_sha256()) == 1, "hash");
    check(EVP_PKEY_CTX_set_rsa_mgf1_md(context, EVP_sha256()) == 1, "mask hash");
    long count;
    while (scanf("%ld", &count) == 1) {
        struct timespec begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        for (long i = 0; i < count; i++) {
            size_t length = sizeof opened;
            check(EVP_PKEY_decrypt(context, opened, &length, sealed, sealed_length) == 1, "decrypt");
        }
        clock_gettime(CLOCK_MONOTONIC, &ended);
        printf("%lld\n", (ended.tv_sec - begun.tv_sec) * 1000000000LL + ended.tv_nsec - begun.tv_nsec);
        fflush(stdout);
    }
    return 0;
}
