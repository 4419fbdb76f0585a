/*
 * url.c: addresses to listen on and to dial.
 */
#include "common/url.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void
srv_url_make(const char *host, unsigned port, char *out, size_t out_size)
{
    bool is_v6 = strchr(host, ':') != NULL;
    (void)snprintf(
        out, out_size, "tcp://%s%s%s:%u", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}

void
srv_url_dial(const char *url, const char *host, char *out, size_t out_size)
{
    static const char *const wildcards[][2] = {
        { "tcp://0.0.0.0:", "127.0.0.1" },
        { "tcp://[::]:", "::1" },
    };

    const char *port = strrchr(url, ':');
    for (size_t i = 0; i < sizeof(wildcards) / sizeof(wildcards[0]) && !host; i++) {
        if (strncmp(url, wildcards[i][0], strlen(wildcards[i][0])) == 0) host = wildcards[i][1];
    }
    if (!host || !port) {
        (void)snprintf(out, out_size, "%s", url);
        return;
    }
    bool is_v6 = strchr(host, ':') != NULL;
    (void)snprintf(out, out_size, "tcp://%s%s%s%s", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}

enum q_err
srv_url_probe(const char *host, unsigned port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = { 0 };
    socklen_t size;
    if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons((uint16_t)port);
        size = sizeof(address.v4);
    } else if (inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons((uint16_t)port);
        size = sizeof(address.v6);
    } else {
        return Q_OK; /* not for us to judge */
    }

    int probe = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    bool is_free = probe >= 0 &&
                   setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
                   bind(probe, &address.any, size) == 0 && listen(probe, 1) == 0;
    int error = errno;
    if (probe >= 0) close(probe);
    if (is_free) return Q_OK;

    char url[SRV_URL_MAX];
    srv_url_make(host, port, url, sizeof(url));
    const char *hint = NULL;
    if (error == EACCES) hint = "ports below 1024 are privileged; use another --port-base";
    if (error == EADDRNOTAVAIL) hint = "name an address of this machine with --listen";
    return Q_FAIL(
        q_err_from_errno(error), .path = url, .sys = error, .what = "can't listen", .hint = hint);
}
