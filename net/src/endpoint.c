/*
 * endpoint.c: nng takes more than it should: a tcp url without a port means any port to it, and an
 * ipc path with an ordinary file at its end costs that file. So a url is checked here first, and
 * nng only sees what can be meant.
 */
#include "endpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <qbase/text.h>

enum {
    MESSAGE_BYTES_MAX_DEFAULT = 4 * 1024 * 1024 + 64 * 1024,
    RECONNECT_MIN_MS_DEFAULT = 20,
    RECONNECT_MAX_MS_DEFAULT = 1000,
    PORT_PRIVILEGED_MAX = 1023,
    PORT_MAX = 65535,
};

enum scheme {
    SCHEME_TCP,
    SCHEME_IPC,
    SCHEME_INPROC,
};

struct address {
    const char *url;
    enum scheme scheme;
    unsigned port; /* tcp */
};

#define URL_HINT                                                                                   \
    "write tcp://HOST:PORT, ipc:///PATH or inproc://NAME, for example tcp://127.0.0.1:20880"

static enum q_err parse(const char *url, bool listens, struct address *ret_address);
static const char *find_mistake(const nng_url *parts, bool listens, struct address *address);
static const char *find_tcp_mistake(const nng_url *parts, bool listens, unsigned *ret_port);
static const char *find_ipc_mistake(const char *path, bool listens);
static enum q_err listen_failed(int nng_error, const struct address *address);
static enum q_err real_url(nng_listener listener, const struct address *address, char **ret_url);

enum q_err
qnet_endpoint_limit(
    nng_socket socket,
    size_t message_bytes_max,
    size_t header_bytes,
    const char *url,
    size_t *ret_message_bytes_max)
{
    size_t most = message_bytes_max == 0 ? MESSAGE_BYTES_MAX_DEFAULT : message_bytes_max;
    int failed = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, most + header_bytes);
    if (failed != 0) return qnet_endpoint_failed(failed, url);
    *ret_message_bytes_max = most;
    return Q_OK;
}

enum q_err
qnet_endpoint_listen(nng_socket socket, const char *url, char **ret_url)
{
    struct address address;
    Q_TRY(parse(url, true, &address));

    nng_listener listener;
    int failed = nng_listener_create(&listener, socket, url);
    if (failed != 0) return listen_failed(failed, &address);

    if (address.scheme == SCHEME_TCP) {
        failed = nng_listener_set_bool(listener, NNG_OPT_TCP_KEEPALIVE, true);
    }
    if (failed == 0) failed = nng_listener_start(listener, 0);
    if (failed != 0) return listen_failed(failed, &address);

    return real_url(listener, &address, ret_url);
}

enum q_err
qnet_endpoint_dial(
    nng_socket socket, const char *url, uint64_t reconnect_min_ms, uint64_t reconnect_max_ms)
{
    struct address address;
    Q_TRY(parse(url, false, &address));

    nng_dialer dialer;
    int failed = nng_dialer_create(&dialer, socket, url);
    if (failed != 0) return qnet_endpoint_failed(failed, url);

    nng_duration min =
        qnet_duration(reconnect_min_ms == 0 ? RECONNECT_MIN_MS_DEFAULT : reconnect_min_ms);
    nng_duration max =
        qnet_duration(reconnect_max_ms == 0 ? RECONNECT_MAX_MS_DEFAULT : reconnect_max_ms);
    failed = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMINT, min);
    if (failed == 0) failed = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMAXT, max);
    if (failed == 0 && address.scheme == SCHEME_TCP) {
        failed = nng_dialer_set_bool(dialer, NNG_OPT_TCP_KEEPALIVE, true);
    }
    /* Without the flag this would wait for the first connection, and give up if it is refused. */
    if (failed == 0) failed = nng_dialer_start(dialer, NNG_FLAG_NONBLOCK);
    return failed == 0 ? Q_OK : qnet_endpoint_failed(failed, url);
}

static enum q_err
parse(const char *url, bool listens, struct address *ret_address)
{
    nng_url *parts;
    int failed = nng_url_parse(&parts, url);
    if (failed == NNG_ENOMEM) return Q_FAIL(Q_E_NOMEM, .path = url);
    if (failed != 0) {
        return Q_FAIL(Q_INVALID, .path = url, .what = "not a url", .hint = URL_HINT);
    }

    struct address address = { .url = url };
    const char *mistake = find_mistake(parts, listens, &address);
    nng_url_free(parts);
    if (mistake != NULL) {
        return Q_FAIL(Q_INVALID, .path = url, .what = mistake, .hint = URL_HINT);
    }
    *ret_address = address;
    return Q_OK;
}

static const char *
find_mistake(const nng_url *parts, bool listens, struct address *address)
{
    if (strcmp(parts->u_scheme, "tcp") == 0) {
        address->scheme = SCHEME_TCP;
        return find_tcp_mistake(parts, listens, &address->port);
    }
    if (strcmp(parts->u_scheme, "ipc") == 0) {
        address->scheme = SCHEME_IPC;
        return find_ipc_mistake(parts->u_path, listens);
    }
    if (strcmp(parts->u_scheme, "inproc") == 0) {
        address->scheme = SCHEME_INPROC;
        return parts->u_path[0] == '\0' ? "no name in the url" : NULL;
    }
    return q_text("unknown transport '%s'", parts->u_scheme);
}

static const char *
find_tcp_mistake(const nng_url *parts, bool listens, unsigned *ret_port)
{
    if (parts->u_port[0] == '\0') return "no port in the url";

    uint64_t port;
    uint64_t least = listens ? 0 : 1;
    if (q_text_parse_u64(parts->u_port, least, PORT_MAX, &port) != Q_OK) {
        return q_text("'%s' is not a port", parts->u_port);
    }
    if (!listens && parts->u_hostname[0] == '\0') return "no host in the url";
    if (parts->u_userinfo != NULL) return "a user name in the url";
    if (parts->u_requri[0] != '\0' && strcmp(parts->u_requri, "/") != 0) {
        return q_text("'%s' after the port", parts->u_requri);
    }
    *ret_port = (unsigned)port;
    return NULL;
}

static const char *
find_ipc_mistake(const char *path, bool listens)
{
    enum {
        PATH_BYTES_MAX = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1
    };
    if (path[0] == '\0') return "no path in the url";
    if (strlen(path) > PATH_BYTES_MAX) {
        return q_text("the path is longer than %d bytes", PATH_BYTES_MAX);
    }

    /* A socket that its dead process left behind is removed by nng; so would be anything else. */
    struct stat found;
    if (listens && lstat(path, &found) == 0 && !S_ISSOCK(found.st_mode)) {
        return "something that is not a socket lies at the path";
    }
    return NULL;
}

static enum q_err
listen_failed(int nng_error, const struct address *address)
{
    bool is_tcp = address->scheme == SCHEME_TCP;
    switch (nng_error) {
    case NNG_EADDRINUSE:
        return Q_FAIL(
            Q_E_ADDRESS_IN_USE, .path = address->url, .what = "something listens there already",
            .hint = is_tcp ? q_text(
                                 "use another port, or stop that process; its name: "
                                 "ss -ltnp 'sport = :%u'",
                                 address->port)
                           : "use another name, or stop the process that listens there");
    case NNG_EPERM:
        return Q_FAIL(
            Q_E_PERMISSION, .path = address->url, .what = "not allowed to listen there",
            .hint = is_tcp && address->port <= PORT_PRIVILEGED_MAX
                        ? "use a port above 1023"
                        : "use a directory that this user may write to");
    case NNG_ENOENT:
        return Q_FAIL(
            Q_INVALID, .path = address->url, .what = "the directory of the socket does not exist",
            .hint = "make the directory, or use another path");
    case NNG_EADDRINVAL:
    case NNG_ENOTSUP:
        return Q_FAIL(
            Q_INVALID, .path = address->url, .what = "not an address of this machine",
            .hint = "use 127.0.0.1, or an address that `ip addr` shows");
    default:
        return qnet_endpoint_failed(nng_error, address->url);
    }
}

enum q_err
qnet_endpoint_failed(int nng_error, const char *url)
{
    switch (nng_error) {
    case NNG_ENOMEM:
        return Q_FAIL(Q_E_NOMEM, .path = url);
    case NNG_EPERM:
        return Q_FAIL(Q_E_PERMISSION, .path = url);
    case NNG_EINVAL:
    case NNG_EADDRINVAL:
        return Q_FAIL(Q_INVALID, .path = url, .what = "not an address", .hint = URL_HINT);
    case NNG_ENOFILES:
        return Q_FAIL(
            Q_E_IO, .path = url, .what = "too many open files", .hint = "raise `ulimit -n`");
    default:
        return Q_FAIL(Q_E_IO, .path = url, .what = nng_strerror(nng_error));
    }
}

/* As it was given, unless it asked for any port. */
static enum q_err
real_url(nng_listener listener, const struct address *address, char **ret_url)
{
    char *url;
    if (address->scheme != SCHEME_TCP || address->port != 0) {
        url = strdup(address->url);
    } else {
        int port;
        int failed = nng_listener_get_int(listener, NNG_OPT_TCP_BOUND_PORT, &port);
        if (failed != 0) return qnet_endpoint_failed(failed, address->url);
        int host_end = (int)(strrchr(address->url, ':') - address->url);
        if (asprintf(&url, "%.*s:%d", host_end, address->url, port) < 0) url = NULL;
    }
    if (url == NULL) return Q_FAIL(Q_E_NOMEM, .path = address->url);
    *ret_url = url;
    return Q_OK;
}

nng_duration
qnet_duration(uint64_t ms)
{
    return ms < INT32_MAX ? (nng_duration)ms : INT32_MAX;
}
