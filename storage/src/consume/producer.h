/*
 * consume/producer.h: which requests of which producers are stored: a pure state machine.
 *
 * A producer counts its requests to one broker group from 1 on, and sends one again, unchanged, until
 * it has an answer. So a request is known by its producer's id and its sequence, and is stored once:
 *
 *   sequence    is                                              answer
 *   below next  known, its bytes are the same                   its result, again
 *               known, its bytes are others                     CONFLICT
 *               not known any more, or was given up             OUT_OF_SEQUENCE
 *   next        due                                             it is stored
 *   above next  early: one before it is missing                 held until that one is there, but not
 *                                                               longer than a second, and not more
 *                                                               than 8: OUT_OF_SEQUENCE
 *
 * `next` is one above the last request that was taken. It passes over numbers that the producer calls
 * settled: it has an outcome for those (it gave up, or was refused) and won't send them again.
 *
 * A producer that is not known begins with its first number that is not settled, unless it says that
 * this request was sent before: whether that one is stored can't be told (UNKNOWN_PRODUCER). Number 1
 * is believed, since what a producer sent before anything else is what it was forgotten last for.
 *
 * A request on its way through a store:
 *
 *   due --take--> queued --place--> stored at a position of the message log
 *                   `-----untake--> as if it had never come; so are all that were taken behind it
 *
 * Invariants (ql_producers_check): results are of the numbers [next - capacity, next), and positions
 * rise with them; early requests are sorted by number, and are 8 at most.
 *
 * Thread: the store's. Time: a parameter. Memory: 200 bytes for each producer and 24 for each of its
 * last 64 requests, in an array that grows by doubling: 1.7 KiB at most; and no more producers than
 * the table was made for.
 */
#ifndef QL_CONSUME_PRODUCER_H
#define QL_CONSUME_PRODUCER_H

#include <qbase/heap.h>
#include <qbase/list.h>
#include <qbase/map.h>

#include "format/record.h"

enum {
    QL_EARLY_MAX = 8,
    QL_EARLY_S = 1,
};

/* What names a request. */
struct ql_request_name {
    uint8_t producer[16];
    uint64_t sequence; /* from 1 */
    uint64_t settled;  /* the producer has an outcome for all below; at most `sequence` */
    uint32_t digest;   /* of its bytes */
    uint32_t batch_count;
    bool again; /* an earlier sending may have been stored */
};

/* Of the envelopes of a request, one after the other: their hashes cover payloads, too. */
static inline uint32_t
ql_request_digest(uint32_t digest, const uint8_t *envelope)
{
    return digest * 31 + q_load_le32(envelope + QBATCH_ENVELOPE_HASH);
}

/* Where a result is kept until its frame has a position; and where there is none. */
#define QL_RESULT_QUEUED (UINT64_MAX - 1)
#define QL_RESULT_NONE   UINT64_MAX

struct ql_result {
    uint64_t frame; /* position in the message log */
    uint32_t from;  /* its envelopes lie in [from, to) of the frame */
    uint32_t to;
    uint32_t digest;
    uint32_t batch_count;
};

/* In a delay store `from` and `to` are the two halves of its first delay sequence instead. */
static inline uint64_t
ql_result_sequence(uint32_t from, uint32_t to)
{
    return (uint64_t)to << 32 | from;
}

struct ql_producer {
    uint8_t id[16];
    uint32_t number;        /* in the table */
    uint32_t queued;        /* requests that were taken and have no place yet */
    struct q_heap_node age; /* key: when it was seen, or earlier */
    uint64_t seen_ms;
    uint64_t next;
    struct q_list early;   /* struct ql_waiting, by sequence */
    struct q_list repeats; /* struct ql_waiting: their first sending is queued */
    uint32_t early_count;
    uint32_t capacity; /* of results: a power of two */
    struct ql_result *results;

    /* Its last PRODUCER record: a lower bound of where it is, and the numbers it tells of. */
    uint64_t stated_at; /* UINT64_MAX: there is none */
    uint64_t stated_next;
};

/* A request that waits at its producer. Part of the request; of its user between hold and return. */
struct ql_waiting {
    struct ql_producer *producer;
    struct q_list link; /* of its producer */
    struct q_list late; /* of the table, by deadline */
    uint64_t sequence;
    uint64_t deadline_ns;
};

struct ql_producers {
    struct ql_producer **producers; /* by number; NULL: free */
    uint32_t count;                 /* numbers in use or free */
    uint32_t capacity;
    uint32_t *free; /* numbers */
    uint32_t free_count;
    uint32_t max;
    uint64_t keep_ms;
    struct q_map by_id;
    struct q_heap by_age;
    struct q_list early; /* of all producers, by deadline */
};

enum ql_request_verdict {
    QL_REQUEST_DUE,
    QL_REQUEST_EARLY,
    QL_REQUEST_QUEUED, /* known: its first sending has no place yet */
    QL_REQUEST_STORED,
};

void ql_producers_init(struct ql_producers *table, uint32_t max, uint64_t keep_ms);
/* Nothing waits in it. */
void ql_producers_fini(struct ql_producers *table);

/*
 * What is to be done with a request. Makes the producer when it may begin.
 *
 * Q_OK: the verdict, and for a stored one its result; else an answer with its fault:
 * Q_OUT_OF_SEQUENCE, Q_UNKNOWN_PRODUCER, Q_CONFLICT, Q_BUSY (every producer there may be has requests
 * under way), Q_E_NOMEM.
 */
Q_MUST_CHECK enum q_err ql_producers_judge(
    struct ql_producers *table,
    const struct ql_request_name *name,
    uint64_t now_ms,
    enum ql_request_verdict *ret_verdict,
    struct ql_producer **ret_producer,
    struct ql_result *ret_result);

/* A due request goes to the log. Q_OK or Q_E_NOMEM: not taken. */
Q_MUST_CHECK enum q_err ql_producer_take(
    struct ql_producer *producer, const struct ql_request_name *name);
/* It lies here; digest and count of `place` are not looked at. */
void ql_producer_place(
    struct ql_producer *producer, uint64_t sequence, const struct ql_result *place);
/* It won't be in a frame; no other that was taken behind it will be. */
void ql_producer_untake(struct ql_producer *producer, uint64_t sequence);

/* An early request is kept until it is due, or late. */
void ql_producer_hold(
    struct ql_producers *table,
    struct ql_producer *producer,
    struct ql_waiting *waiting,
    uint64_t sequence,
    uint64_t now_ns);
/* An early request that is no longer early, and no longer held: to be judged again; NULL: none is. */
struct ql_waiting *ql_producer_ready(struct ql_producer *producer);
/* The next one whose time is over, no longer held; NULL: there is none. UINT64_MAX: any. */
struct ql_waiting *ql_producers_late(struct ql_producers *table, uint64_t now_ns);
/* When the next one is late; UINT64_MAX: none is held. */
uint64_t ql_producers_deadline_ns(const struct ql_producers *table);

/* A repeat waits for what becomes of its first sending. */
void ql_producer_follow(
    struct ql_producer *producer, struct ql_waiting *waiting, uint64_t sequence);
/* The next one that waits for this sequence, no longer waiting; NULL: there is none. */
struct ql_waiting *ql_producer_follower(struct ql_producer *producer, uint64_t sequence);

/* A stored request, from the log or from a statement, in any order. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_producers_apply(
    struct ql_producers *table,
    const uint8_t id[16],
    uint64_t sequence,
    const struct ql_result *result,
    uint64_t seen_ms);
/* A start: the log ends here. Requests behind it are not stored, whatever a statement says. */
void ql_producers_cut(struct ql_producers *table, uint64_t end);
/* Forget who was not seen for so long; a bounded number at a time. */
void ql_producers_expire(struct ql_producers *table, uint64_t now_ms);

struct ql_producer *ql_producers_find(const struct ql_producers *table, const uint8_t id[16]);
/* Whether a statement of what lies below `durable` would tell something new. */
bool ql_producer_has_news(const struct ql_producer *producer, uint64_t durable);
/*
 * All that can be said of what lies below `durable`, into a record and room for
 * QL_PRODUCER_RESULTS_MAX. False: nothing.
 */
bool ql_producer_state(
    const struct ql_producer *producer,
    uint64_t durable,
    struct ql_producer_record *ret_record,
    struct ql_producer_result *ret_results);

void ql_producers_check(const struct ql_producers *table);
/* Of what is stored; whoever has nothing stored does not count. */
uint64_t ql_producers_state_hash(const struct ql_producers *table);

#endif /* QL_CONSUME_PRODUCER_H */
