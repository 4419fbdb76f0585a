/*
 * consume/release.h: messages that go from a consumer's window back to the pending set.
 *
 * A message that comes back may have used an attempt; one that has none left is dying. In a strict
 * group what is held of a key goes back together, and only the first of it has used its attempt.
 *
 * Thread: the store's. Memory: at the end of the pending set's array; callers reserve it.
 */
#ifndef QL_CONSUME_RELEASE_H
#define QL_CONSUME_RELEASE_H

#include "consume/group.h"

enum ql_use {
    QL_USE_NONE,
    QL_USE_FAILED,
    QL_USE_TIMED_OUT,
    QL_USE_DIED
};

typedef bool ql_moves_fn(const void *context, const struct ql_range_item *item);

/* Room to move `count` spans to the pending set. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_release_reserve(struct ql_group *group, uint64_t count);
/* Where spans that are to be added stand until then: room for as many as were reserved. */
struct ql_range_item *ql_release_room(struct ql_group *group, uint64_t count);
/* Those spans of a window that `moves` says go back, their attempts used as told. */
void ql_release_where(
    struct ql_consumer *consumer, ql_moves_fn *moves, const void *context, enum ql_use use);
/* One more attempt is used: the reason it is pending for, and until when. */
void ql_item_use(
    const struct ql_group *group, struct ql_range_item *item, enum ql_use use, uint64_t due_ms);
/* By order key, then by sequence. For qsort(). */
int ql_item_by_key(const void *a, const void *b);

#endif /* QL_CONSUME_RELEASE_H */
