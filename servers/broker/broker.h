/*
 * broker/broker.h: the role that stores messages and hands them out.
 *
 * A broker is a store (qlog/store.h) behind a listener. It registers at meta, and serves whoever
 * knows its address whether meta is there or not.
 *
 * Thread:   start and stop: one. The callbacks run on threads of the broker.
 * Blocking: start until the store is recovered; stop until all calls are answered and everything
 *           is flushed.
 * Memory:   texts of the options outlive the broker.
 */
#ifndef BROKER_BROKER_H
#define BROKER_BROKER_H

#include <qlog/store.h>

struct broker;

struct broker_options {
    const char *directory;   /* of the store; made when it does not exist */
    const char *url;         /* to listen on; port 0: any */
    const char *one_way_url; /* the same for one-way messages; NULL: it takes none */
    const char *advertise;   /* host that clients use; NULL: the one of the url */
    const char *meta_url;    /* NULL: don't register */
    const char *node_id;
    const char *cluster;
    const char *broker_group;
    const char *program;
    const char *version;
    const char *roles;
    struct qlog_store_options store; /* clock, observer and archive are the broker's */
    const char *archive;             /* directory for what retention drops; NULL: none */
    uint64_t one_way_bytes_max;      /* under way; above: BUSY. 0: 16 MiB */
    void *context;
    /* Registered: the route is published. Once. May be NULL. */
    void (*on_ready)(void *context);
    /* The store is broken: the process must end. May be NULL. */
    void (*on_failed)(void *context, const struct q_fault *fault);
};

/* Recovered and listening when it returns. Failures of store and listener. */
Q_MUST_CHECK enum q_err broker_start(
    const struct broker_options *options, struct broker **ret_broker);
/* Q_OK, or why the stop was not clean. */
enum q_err broker_stop(struct broker *broker);
/* With the real port. */
const char *broker_url(const struct broker *broker);
/* The same for one-way messages; NULL: it takes none. */
const char *broker_one_way_url(const struct broker *broker);
/* What the store said about its way to the kernel: "io_uring". */
const char *broker_io_text(const struct broker *broker);

#endif /* BROKER_BROKER_H */
