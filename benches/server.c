/* Stands for the daemon in benches/helper.py: gives every request the same cached credential, one connection at a time.
 * Usage: server SOCKET
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char answer[] = "username=x-token-auth\npassword=bench-0123456789012345678901234567890123456789\n"
                             "password_expiry_utc=4102444800\n\n";

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static char buffer[66000];
    int listener;

    if (argc < 2 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
    strcpy(address.sun_path, argv[1]);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 128) < 0) return 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        size_t length = 0;
        ssize_t count;
        if (peer < 0) return 1;
        while ((count = read(peer, buffer + length, sizeof buffer - length)) > 0) {
            length += (size_t)count;
            if (length >= 2 && buffer[length - 1] == '\n' && buffer[length - 2] == '\n') break;
        }
        if (length >= 2 && write(peer, answer, sizeof answer - 1) < 0) return 1;
        close(peer);
    }
}
