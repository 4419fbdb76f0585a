/*
 * machine.h: the real thing: a message store on a disk in memory, one request at a time.
 *
 * All of the store is driven, not only consume/: what a pull gives is decided by both, and a restart
 * reads what was logged. Nothing is a matter of chance: the disk does what it is told at once, time
 * stands still but for machine_time(), and all messages are in memory before anybody pulls.
 *
 * Thread: one.
 */
#ifndef TESTS_MODEL_MACHINE_H
#define TESTS_MODEL_MACHINE_H

#include <qbase/clock.h>
#include <qlog/store.h>

#include "ramdisk.h"

enum {
    MACHINE_RUNS_MAX = 64
};

struct machine {
    struct ramdisk *disk;
    struct q_clock_manual clock;
    struct qlog_store_options options;
    struct qlog_store *store;
    uint32_t counter; /* of message ids */
    struct qlog_run runs[MACHINE_RUNS_MAX];
    struct qlog_piece pieces[MACHINE_RUNS_MAX];
};

struct machine_message {
    uint8_t tags;     /* a bit for each */
    uint8_t key;      /* 0: none */
    const char *only; /* NULL: all groups are given it */
};

/* A dead letter, as its properties tell. */
struct machine_dead {
    uint64_t sequence;
    uint64_t attempts;
    uint64_t failed;
    uint64_t timed_out;
    uint64_t died;
    bool expired;
    char error[16];
};

enum machine_end {
    MACHINE_CLOSED, /* cleanly */
    MACHINE_KILLED, /* everything that was written is there */
    MACHINE_LOST    /* the power: nothing is there that was not flushed */
};

extern const char machine_subject[];

/* `disk` is emptied. What is older than `keep_ms` may be dropped. */
void machine_start(struct machine *machine, struct ramdisk *disk, uint64_t keep_ms);
void machine_stop(struct machine *machine);
/* Stop in this way, and open again. */
void machine_restart(struct machine *machine, enum machine_end end);
/* Submit, and turn until it is answered and nothing moves any more. */
enum q_err machine_run(struct machine *machine, struct qlog_request *request);
/* The same for one that may wait: `call` says whether it was answered. */
struct machine_call {
    bool done;
    enum q_err err;
};
void machine_begin(
    struct machine *machine, struct qlog_request *request, struct machine_call *call);
void machine_settle(struct machine *machine);
/* It is so late. */
void machine_time(struct machine *machine, uint64_t now_ms);
/* One batch. */
enum q_err machine_publish(
    struct machine *machine, const struct machine_message *messages, uint32_t count);
/* The names of a set of tags; returns how many. */
uint32_t machine_tags(uint8_t tags, struct q_bytes *ret_names);
/* The next dead letter of a group, from `*at` on. False: there is none. */
bool machine_next_dead(
    struct machine *machine, const char *group, uint64_t *at, struct machine_dead *ret_dead);
/* The first message that is stored. */
uint64_t machine_first(struct machine *machine);
/* Where the action log ends, and how far it is flushed. */
uint64_t machine_actions_end(const struct machine *machine);
bool machine_is_flushed(const struct machine *machine);
uint64_t machine_generation(struct machine *machine);
uint64_t machine_state_hash(const struct machine *machine);
/* The next pull sequence that a consumer is given. */
uint64_t machine_next_pull(const struct machine *machine, const char *group, const char *consumer);
/* All invariants of all groups. */
void machine_check(const struct machine *machine);

#endif /* TESTS_MODEL_MACHINE_H */
