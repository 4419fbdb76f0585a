/*
 * full_disk_node.h: a store on the small file system, what publishes to it and what consumes.
 *
 * Every answer goes into the truth at once. Time is a manual clock's.
 *
 * Thread: one.
 */
#ifndef TESTS_CRASH_FULL_DISK_NODE_H
#define TESTS_CRASH_FULL_DISK_NODE_H

#include <qbase/clock.h>
#include <qlog/store.h>

#include "full_disk_place.h"
#include "full_disk_truth.h"
#include "random.h"

enum {
    SLOTS = 12, /* publishes under way */
    BATCHES_MAX = 4,
    PUBLISH_BYTES_MAX = 448 * 1024,
    PULL_RUNS = 64
};

struct node;

struct slot {
    struct node *node;
    struct qlog_publish publish;
    uint64_t number; /* 0: free */
    unsigned subjects[BATCHES_MAX];
    uint32_t counts[BATCHES_MAX];
    uint64_t first_sequences[BATCHES_MAX];
    struct q_bytes names[BATCHES_MAX];
    uint8_t envelopes[64 * 1024];
    uint8_t payloads[PUBLISH_BYTES_MAX];
};

/* An answer of a pull. */
struct handed {
    struct qlog_pull pull;
    unsigned subject;
    unsigned group;
    struct qlog_run runs[PULL_RUNS];
    struct qlog_piece pieces[PULL_RUNS];
};

struct node {
    struct place place;
    char directory[280];
    struct q_clock_manual clock;
    struct qlog_observer observer;
    struct qlog_store_options options;
    struct qlog_store *store;
    struct random_source random;
    struct truth truth;
    struct qbatch_builder *builder;
    uint64_t sessions[SUBJECTS][GROUPS];
    uint64_t received[SUBJECTS][GROUPS];
    uint64_t tokens;
    uint32_t counter; /* of message ids */
    struct slot slots[SLOTS];
    struct handed *held;   /* kept by somebody slow: its segments must stay */
    uint64_t refused;      /* publishes, by STORAGE_FULL */
    uint64_t refused_hard; /* those of them at the hard level; the rest by the log */
    uint64_t kept;
    uint64_t kept_bytes;
    uint64_t dropped; /* events */
};

/* False: it does not start, and the truth has it. */
bool node_open(struct node *node);
/* In any state. `kill`: as kill -9 does, else in order. */
bool node_restart(struct node *node, bool kill);
/* Close for good. */
void node_close(struct node *node);
/* One turn. False: the store is broken. */
bool node_turn(struct node *node);
/* Let time pass, in steps, with turns between. */
void node_pass_ms(struct node *node, uint64_t ms);
/* Submit a random publish; NULL: all slots are taken. */
struct slot *node_publish(struct node *node);
/* Until every publish is answered. */
void node_wait_publishes(struct node *node);
/* Publish one and wait for it. */
enum q_err node_publish_one(struct node *node);
/* Pull and acknowledge. False: there was nothing. */
bool node_consume(struct node *node, unsigned subject, unsigned group);
/* All there is. */
void node_drain(struct node *node, unsigned subject, unsigned group);
/* Keep what a pull answers, acknowledged as it may be; and look at it again, and let it go. */
void node_hold(struct node *node, unsigned subject, unsigned group);
void node_let_go(struct node *node);

#endif /* TESTS_CRASH_FULL_DISK_NODE_H */
