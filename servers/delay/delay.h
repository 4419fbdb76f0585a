/*
 * delay/delay.h: the role that keeps messages until they are due.
 *
 * A delay store (qlog/delay.h) behind a listener, with a sender that publishes what is due to the
 * broker groups of its subject. It registers at meta as a delay group; what is due waits while
 * brokers or meta are away.
 *
 * Thread:   start and stop: one. The callbacks run on threads of the role.
 * Blocking: start until the store is recovered; stop until all calls are answered and everything is
 *           flushed.
 * Memory:   texts of the options outlive it.
 */
#ifndef DELAY_DELAY_H
#define DELAY_DELAY_H

#include <qlog/delay.h>

struct delay;

struct delay_options {
    const char *directory; /* of the store; made when it does not exist */
    const char *url;       /* to listen on; port 0: any */
    const char *advertise; /* host that clients use; NULL: the one of the url */
    const char *meta_url;
    const char *node_id; /* of the node; this role registers as "ID.delay" */
    const char *cluster;
    const char *delay_group;
    const char *program;
    const char *version;
    const char *roles;
    struct qlog_delay_options store; /* observer and sender are the role's */
    void *context;
    /* Registered: the route is published. Once. May be NULL. */
    void (*on_ready)(void *context);
    /* The store is broken: the process must end. May be NULL. */
    void (*on_failed)(void *context, const struct q_fault *fault);
};

/* Recovered and listening when it returns. Failures of store and listener. */
Q_MUST_CHECK enum q_err delay_start(const struct delay_options *options, struct delay **ret_delay);
/* Q_OK, or why the stop was not clean. */
enum q_err delay_stop(struct delay *delay);
/* With the real port. */
const char *delay_url(const struct delay *delay);

#endif /* DELAY_DELAY_H */
