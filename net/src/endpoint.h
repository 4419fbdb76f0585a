/*
 * endpoint.h: addresses: check a url, listen on it or connect to it, and say in our words what went
 * wrong.
 */
#ifndef QNET_SRC_ENDPOINT_H
#define QNET_SRC_ENDPOINT_H

#include <nng/nng.h>

#include <qbase/err.h>

/*
 * Refuse longer messages. 0: 4 MiB + 64 KiB. `header_bytes` is what the protocol puts before our
 * bytes: nng counts it, our users don't.
 */
Q_MUST_CHECK enum q_err qnet_endpoint_limit(
    nng_socket socket,
    size_t message_bytes_max,
    size_t header_bytes,
    const char *url,
    size_t *ret_message_bytes_max);

/* `*ret_url` has the real port; the caller frees it. Q_INVALID, Q_E_ADDRESS_IN_USE,
 * Q_E_PERMISSION, Q_E_NOMEM, Q_E_IO. */
Q_MUST_CHECK enum q_err qnet_endpoint_listen(nng_socket socket, const char *url, char **ret_url);

/* Connect in the background, for ever. 0: 20 ms and 1 s. Q_INVALID, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err qnet_endpoint_dial(
    nng_socket socket, const char *url, uint64_t reconnect_min_ms, uint64_t reconnect_max_ms);

/* Record that `url` could not be used and why. */
Q_MUST_CHECK enum q_err qnet_endpoint_failed(int nng_error, const char *url);

/* nng's durations are 32 bits wide. */
nng_duration qnet_duration(uint64_t ms);

#endif /* QNET_SRC_ENDPOINT_H */
