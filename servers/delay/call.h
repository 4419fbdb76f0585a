/*
 * delay/call.h: a call on its way through the delay role.
 *
 *   NET     delay_on_call  unpacks the header, checks, fills the store's request; submit
 *   STORE   `done` builds the answer and sends it
 */
#ifndef DELAY_CALL_H
#define DELAY_CALL_H

#include <stdatomic.h>

#include "common/gate.h"
#include "common/listener.h"
#include "common/registrar.h"
#include "common/url.h"
#include "delay/delay.h"
#include "delay/sender.h"
#include "delay/store_thread.h"

enum {
    DELAY_CALLS_MAX = 8 * 1024,                  /* under way; above: BUSY */
    DELAY_PUBLISH_BYTES_MAX = 128 * 1024 * 1024, /* under way; above: BUSY */
    DELAY_LIST_MAX = 1000,
    DELAY_BUCKETS_MAX = 1000,
    DELAY_GROUPS_MAX = 64,
};

struct delay {
    struct delay_options options;
    char address[SRV_URL_MAX]; /* for clients */
    char node_id[64];

    struct srv_gate gate; /* in front of new calls */
    atomic_uint call_count;
    atomic_size_t publish_bytes;
    atomic_bool has_failed;

    struct delay_sender *sender;
    struct delay_store *store;
    struct srv_listener *listener;
    struct srv_registrar *registrar;
};

extern const struct srv_op delay_ops[];
extern const size_t delay_op_count;

#endif /* DELAY_CALL_H */
