/*
 * store/dead.h: messages that are dying become dead letters. See dead.c.
 *
 * Thread: the store's. Memory: a batch of them, made with the first.
 */
#ifndef QL_STORE_DEAD_H
#define QL_STORE_DEAD_H

#include <qlog/store.h>

#include "consume/group.h"

struct qbatch_builder;

enum {
    QL_DEAD_MAX = 64 /* in one request */
};

struct ql_dead {
    bool busy;         /* a request is under way */
    uint64_t retry_ns; /* not before, */
    bool fetching;     /* … or when nothing is being read any more */
    uint32_t group_id; /* whose they are */
    uint64_t epoch;
    struct ql_resolve_item items[QL_DEAD_MAX];
    uint32_t count;
    struct qbatch_builder *builder;
    uint8_t *content;
    size_t content_capacity;
    uint8_t *envelope;
    uint8_t *payload;
    char name[2 * QLOG_SUBJECT_MAX + 32];
    struct q_bytes subject;
    struct qlog_publish publish;
    uint64_t first_sequence;
    uint32_t counter;
};

void ql_dead_fini(struct ql_dead *dead);
/* Copy some of those that die. */
void ql_dead_turn(struct qlog_store *store);
/* When it is to be asked again; UINT64_MAX: there are none, or they are under way. */
uint64_t ql_dead_deadline_ns(const struct qlog_store *store);

#endif /* QL_STORE_DEAD_H */
