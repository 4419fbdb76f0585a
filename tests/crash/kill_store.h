/*
 * kill_store.h: a store under kill -9: publishes on two subjects, pulls and acknowledgements.
 *
 * Publish n of a life has a key made of the history, the life and n; the key tells its batches, their
 * subjects and their messages. Read back through a group of its own, a subject must hold, densely
 * numbered from 0, its part of all publishes that earlier lives were found with, then of the first
 * publishes of this life, each whole or not at all, and at least those that were acknowledged.
 *
 * The group that the child consumes with must be given every message that was not acknowledged to
 * it, and none that was.
 */
#ifndef TESTS_CRASH_KILL_STORE_H
#define TESTS_CRASH_KILL_STORE_H

#include <stdatomic.h>

#include <qlog/store.h>

#include "kill.h"

enum {
    SUBJECTS = 2,
    PUBLISHES_MAX = 3000, /* of a life */
    KEPT_MAX = 8 * PUBLISHES_MAX,
    BATCHES_MAX = 3,
    MESSAGES_MAX = 5, /* of a batch */
    BODY_MAX = 1500,
    SEQUENCES_MAX = KEPT_MAX * BATCHES_MAX * MESSAGES_MAX,
    UNDER_WAY_MAX = 32,
    RUNS_MAX = 16,
    PIECES_MAX = 64,
    PUBLISH_BYTES_MAX = 64 * 1024,
};

enum {
    ACK_NONE,
    ACK_ASKED,
    ACK_DONE
};

extern const char *const subject_names[SUBJECTS];

struct ledger {
    /* Publishes that were sent again, in all lives. */
    atomic_uint repeated;
    /* Of this life; written by the child. */
    atomic_uint submitted;
    atomic_uchar acknowledged[PUBLISHES_MAX];
    uint64_t first_sequences[PUBLISHES_MAX][BATCHES_MAX];
    /* Of all lives: what became of each message in the child's group. */
    atomic_uchar acks[SUBJECTS][SEQUENCES_MAX];
    /* Of the lives before; the parent's. */
    uint32_t kept;
    uint8_t kept_life[KEPT_MAX];
    uint32_t kept_number[KEPT_MAX];
};

struct shape {
    uint64_t key;
    uint32_t batch_count;
    uint32_t subjects[BATCHES_MAX];
    uint32_t message_counts[BATCHES_MAX];
};

/* What a publish is made of. */
struct shape shape_of(const struct history *history, uint32_t life, uint32_t number);
uint64_t message_key(const struct shape *shape, uint32_t batch, uint32_t message);
size_t message_size(uint64_t key);

/* The one consumer of a group. */
struct qlog_consumer consumer_of(uint32_t subject, const char *group, uint64_t session);
enum q_err open_store(
    const struct history *history, struct qlog_io *io, struct qlog_store **ret_store);

void store_work(struct history *history);
bool store_check(struct history *history, struct verdict *verdict);

#endif /* TESTS_CRASH_KILL_STORE_H */
