/*
 * delay/intake.h: requests of producers with a number are stored once, and in their producer's order.
 *
 * Which request is due, known or early is consume/producer.h's to say; here it is done, as
 * store/once.c does it for a message store. The answer to a repeat follows from the first delay
 * sequence of its request, since all sequences of a request follow each other: that is what a result
 * keeps where a message store keeps the place of envelopes.
 *
 * Through a start: each round of the dispatch log states the requests of all producers in what was
 * durable of the delay log when it began (PRODUCER records); the superblock says where that ended
 * (`from`), and a start reads the batches behind it for their requests, beside schedule files. What
 * was written again is none of them, though it looks like it: a batch of old messages has sequences
 * below those that came before it in the log (`next_sequence`), and one with a new due time follows a
 * REPLACES record.
 *
 *   what a start finds                                         is read for requests
 *   the last round whole, and `from` in the superblock         from there on
 *   no superblock, or a damaged dispatch log                   the whole delay log
 *   0 in the superblock: it was written before delay stores    the end of the log, that has no schedule
 *   knew requests                                              files
 *
 * Invariants:
 *   (1) no segment goes before its requests are in a round that is durable (space.c)
 *   (2) nothing is stated that is not durable in the delay log
 *
 * Thread: the store's. Memory: consume/producer.h.
 */
#ifndef QL_DELAY_INTAKE_H
#define QL_DELAY_INTAKE_H

#include <qlog/delay.h>

#include "consume/producer.h"
#include "format/index_file.h"

struct ql_intake {
    struct ql_producers producers;
    bool going_on; /* requests that were held are being looked at */

    /* The round of statements under way. */
    uint64_t round_from; /* what lies below in the delay log is stated by it */
    uint32_t round_next; /* number of the producer to be stated next */

    /* A start. */
    uint64_t from;          /* requests below are in statements, or not known */
    uint64_t next_sequence; /* a batch below is one that was written again */
    bool moved;             /* the next batch has a message with a new due time */
    uint32_t index;         /* of the batch of the request that is read, and of that: */
    uint64_t first_sequence;
    uint32_t digest;
};

void ql_intake_init(struct qlog_delay *delay);
void ql_intake_fini(struct qlog_delay *delay);

/* A publish with a number: append it, hold it, or repeat its answer. Q_OK, or an answer. */
Q_MUST_CHECK enum q_err ql_intake_start(
    struct qlog_delay *delay, struct qlog_delay_publish *publish);
/* It lies in this frame, with these delay sequences. Of a publish without a number: nothing. */
void ql_intake_placed(struct qlog_delay_publish *publish, uint64_t frame, uint64_t sequence);
/* The log has refused it. The same. */
void ql_intake_refused(struct qlog_delay_publish *publish, enum q_err err);
/* Those that were held for too long, and producers that were not seen for too long. */
void ql_intake_expire(struct qlog_delay *delay);
/* All that are held: the store is being closed, or broken. */
void ql_intake_end(struct qlog_delay *delay);

/* So much was stored since the last round that a start would read long. */
bool ql_intake_round_is_due(const struct qlog_delay *delay);
void ql_intake_round_begin(struct qlog_delay *delay);
/* A slice of the statements. True: all is said. */
bool ql_intake_round_say(struct qlog_delay *delay);
/* All of it is durable. */
void ql_intake_round_end(struct qlog_delay *delay);

/* --- A start, in this order. */
Q_MUST_CHECK enum q_err ql_intake_replay_statement(
    struct qlog_delay *delay, const struct ql_producer_record *record);
/* The dispatch log is read. */
void ql_intake_replay_begin(struct qlog_delay *delay);
/* A segment that is not read for anything else. */
Q_MUST_CHECK enum q_err ql_intake_replay_range(
    struct qlog_delay *delay, uint64_t base, uint64_t end);
Q_MUST_CHECK enum q_err ql_intake_replay_batch(
    struct qlog_delay *delay, const struct qbatch *batch, const struct ql_entry *where);
/* All is known of the segments below `end`; the rest is read batch by batch. */
void ql_intake_replay_tail(struct qlog_delay *delay, uint64_t end);
/* The delay log ends here. */
void ql_intake_replay_end(struct qlog_delay *delay, uint64_t end);

#endif /* QL_DELAY_INTAKE_H */
