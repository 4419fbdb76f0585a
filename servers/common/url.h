/*
 * common/url.h: addresses to listen on and to dial.
 *
 * Thread: any. Blocking: never. Memory: the caller's buffers of SRV_URL_MAX bytes.
 */
#ifndef SRV_COMMON_URL_H
#define SRV_COMMON_URL_H

#include <stddef.h>

#include <qbase/err.h>

enum {
    SRV_URL_MAX = 160
};

/* "tcp://127.0.0.1:20880", "tcp://[::1]:20880" */
void srv_url_make(const char *host, unsigned port, char *out, size_t out_size);
/*
 * The url under which others dial `url`: with `host` instead of its own; when that is NULL,
 * loopback instead of a wildcard.
 */
void srv_url_dial(const char *url, const char *host, char *out, size_t out_size);
/* Could one listen there? Before anything is made. Q_OK, Q_E_ADDRESS_IN_USE, Q_E_PERMISSION, … */
Q_MUST_CHECK enum q_err srv_url_probe(const char *host, unsigned port);

#endif /* SRV_COMMON_URL_H */
