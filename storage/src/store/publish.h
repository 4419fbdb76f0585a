/*
 * store/publish.h: a publish between submit and done: publish.c puts it into the log, once.c sees to
 * it that it is stored once and in its turn.
 *
 * Thread: the store's.
 */
#ifndef QL_STORE_PUBLISH_H
#define QL_STORE_PUBLISH_H

#include "store/store.h"

/* In its private words. */
struct ql_publish_state {
    struct ql_append append;
    struct qlog_store *store;
    struct ql_producer *producer; /* NULL: the request has no number */
    struct ql_waiting waiting;
    struct ql_result first; /* of a repeat: where that is stored */
    bool repeat;
};

_Static_assert(
    sizeof(struct ql_publish_state) <= sizeof(struct qlog_publish_private),
    "private words are too few");

static inline struct ql_publish_state *
ql_publish_state(struct qlog_publish *publish)
{
    return (struct ql_publish_state *)(void *)&publish->private_;
}

static inline struct qlog_publish *
ql_publish_of(struct ql_publish_state *state)
{
    return q_container_of(state, struct qlog_publish, private_);
}

/* Into the log's queue. Q_OK, or an answer: it won't be in the log. */
Q_MUST_CHECK enum q_err ql_publish_append(struct qlog_store *store, struct qlog_publish *publish);
void ql_publish_finish(struct qlog_publish *publish, enum q_err err);

/* --- once.c --- */

/* A request with a number: append it, hold it, or repeat its answer. Q_OK, or an answer. */
Q_MUST_CHECK enum q_err ql_once_start(struct qlog_store *store, struct qlog_publish *publish);
/* It lies here. */
void ql_once_placed(struct qlog_publish *publish, const struct ql_result *place);
/* It was refused by the log. */
void ql_once_refused(struct qlog_publish *publish, enum q_err err);
/* What was stored before, into the answer. Q_OK; Q_UNKNOWN_PRODUCER: it is not there. */
Q_MUST_CHECK enum q_err ql_once_repeat(struct qlog_publish *publish);

#endif /* QL_STORE_PUBLISH_H */
