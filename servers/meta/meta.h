/*
 * meta/meta.h: the role that knows the cluster: nodes, and which of them serves what.
 *
 * Thread:   start and stop: one. Blocking: both.
 * Memory:   texts of the options are copied or needed during start only, but `program`, `node_id`
 *           and `roles`, which outlive the role.
 */
#ifndef META_META_H
#define META_META_H

#include <qbase/clock.h>
#include <qbase/err.h>

struct meta;

struct meta_options {
    const char *directory; /* exists */
    const char *url;       /* to listen on; port 0: any */
    const struct q_clock *clock;
    const char *program;
    const char *node_id;
    const char *roles;
};

/* Listens when it returns. Failures of store and listener. */
Q_MUST_CHECK enum q_err meta_start(const struct meta_options *options, struct meta **ret_meta);
/* Waiting calls end with Q_STOPPING. */
void meta_stop(struct meta *meta);
/* With the real port. */
const char *meta_url(const struct meta *meta);

#endif /* META_META_H */
