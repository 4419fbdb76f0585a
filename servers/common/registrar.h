/*
 * common/registrar.h: make a node known to meta, and keep it known.
 *
 * Registers, then sends heart-beats. While meta is away, or does not admit the node, it says once
 * what it waits for and which command helps, and goes on trying, with growing pauses. It never
 * gives up: a broker without meta still serves those who know its address.
 *
 * Thread:   on_registered runs on the registrar's own thread.
 * Blocking: _free() waits for the thread.
 * Memory:   texts of the options are the caller's and outlive the registrar.
 */
#ifndef SRV_COMMON_REGISTRAR_H
#define SRV_COMMON_REGISTRAR_H

#include <qbase/err.h>

struct srv_registrar;

struct srv_registrar_options {
    const char *meta_url;
    const char *node_id;
    const char *cluster;
    const char *broker_group;
    const char *role;
    const char *address; /* where clients reach the role */
    const char *one_way; /* where they send one-way messages; NULL: nowhere */
    const char *version;
    void *context;
    /* Meta has admitted the node, so its route is published. Once. */
    void (*on_registered)(void *context);
};

Q_MUST_CHECK enum q_err srv_registrar_new(
    const struct srv_registrar_options *options, struct srv_registrar **ret_registrar);
/* NULL is fine. */
void srv_registrar_free(struct srv_registrar *registrar);

#endif /* SRV_COMMON_REGISTRAR_H */
