/*
 * consume/spans.h: sorted lists of message ranges: a consumer's window, a group's pending set.
 *
 * A span is a range of messages that share everything (struct ql_range_item), next to each other in
 * sequences and pull sequences. A window is sorted by pull sequence, a pending set by sequence; spans
 * of a list are disjoint in what it is sorted by. Neighbours that could be one span are joined when
 * one is added, so the same changes give the same spans, live and in replay.
 *
 * Thread: the owner's. Memory: one array, grown by doubling in ql_spans_reserve(), kept until
 * ql_spans_shrink(). What is taken from its front costs nothing, else a change costs a move of what lies
 * behind it.
 */
#ifndef QL_CONSUME_SPANS_H
#define QL_CONSUME_SPANS_H

#include "consume/room.h"
#include "format/record.h"

struct ql_spans {
    struct ql_range_item *items; /* the first is at `begin` */
    uint32_t begin;
    uint32_t count;
    uint32_t capacity;
    bool by_pull;         /* sorted by pull sequence */
    struct ql_room *room; /* that its memory is taken from; NULL: nobody counts */
    uint64_t moved;       /* spans, by all changes so far: what those cost */
};

/* Told of each part that comes (sign 1) or goes (sign -1). */
typedef void ql_span_fn(void *context, const struct ql_range_item *part, int sign);

static inline struct ql_range_item *
ql_span_at(const struct ql_spans *spans, uint32_t index)
{
    return &spans->items[spans->begin + index];
}

/* Where a span begins, in what its list is sorted by. */
static inline uint64_t
ql_span_from(const struct ql_spans *spans, const struct ql_range_item *item)
{
    return spans->by_pull ? item->pull_sequence : item->sequence;
}

void ql_spans_fini(struct ql_spans *spans);
/* Room for `more` spans. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_spans_reserve(struct ql_spans *spans, uint64_t more);
/* Give back what is free. */
void ql_spans_shrink(struct ql_spans *spans);
/* The first span that ends behind `at`; `count`: none. */
uint32_t ql_spans_find(const struct ql_spans *spans, uint64_t at);
/*
 * Add spans, sorted like the list and disjoint from what is in it. There is room. `each` may be NULL.
 */
void ql_spans_merge(
    struct ql_spans *spans,
    const struct ql_range_item *items,
    uint32_t count,
    ql_span_fn *each,
    void *context);
/*
 * Remove what lies in `ranges`, which are sorted and disjoint. There is room for `range_count` more.
 * Returns how many messages that were.
 */
uint64_t ql_spans_cut(
    struct ql_spans *spans,
    const struct qlog_range *ranges,
    uint32_t range_count,
    ql_span_fn *each,
    void *context);
/* Remove everything. */
void ql_spans_clear(struct ql_spans *spans, ql_span_fn *each, void *context);
/* The part [from, from + count) of a span, in what the list is sorted by. */
struct ql_range_item ql_span_part(
    const struct ql_spans *spans, const struct ql_range_item *item, uint64_t from, uint32_t count);

#endif /* QL_CONSUME_SPANS_H */
