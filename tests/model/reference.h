/*
 * reference.h: a naive model of consumer groups: one row for each message of each group, no logs.
 *
 * It is written from docs/consumption.md and knows nothing of the machine that it is held against. A
 * state is one struct without pointers: copying it is a snapshot, and so a crash is an assignment.
 *
 * What the documents leave open, and the machine decides, is told to it: numbers of sessions, where the
 * pull sequences of a new consumer begin, the generation, and where the log begins after a trim.
 *
 * Thread: one. Memory: the caller's. Time: milliseconds since 1970, told with ref_time().
 */
#ifndef TESTS_MODEL_REFERENCE_H
#define TESTS_MODEL_REFERENCE_H

#include <qlog/store.h>

enum {
    REF_MESSAGES = 384,
    REF_GROUPS = 3,
    REF_CONSUMERS = 3,
    REF_PULL_MAX = 32,
    REF_TIMEOUT_MS = 30 * 1000,          /* then a consumer is dead, */
    REF_FORGET_MS = 20 * REF_TIMEOUT_MS, /* … and forgotten */
    REF_BROADCAST_MS = 2 * 86400 * 1000, /* a broadcast group that nobody uses, too */
};

/* What is stored, for good: crashes don't change it. */
struct ref_message {
    uint8_t tags; /* a bit for each */
    uint8_t key;  /* 0: none */
    uint8_t only; /* 1 more than the group that alone is given it; 0: all */
    uint64_t stored_ms;
};

/* Nothing is dropped by itself before. */
#define REF_KEEP_MS (UINT64_C(1000) * 86400 * 1000)

struct ref_filter {
    bool known;
    bool all;
    uint8_t tags; /* 0: everything */
    uint64_t left_ms;
};

enum ref_place {
    REF_WAITING, /* or done, below the cursor */
    REF_HELD,
    REF_PENDING,
};

enum ref_reason {
    REF_RETRY,
    REF_RELEASED,
    REF_KEY,
    REF_FILTER,
    REF_DYING,
    REF_REASONS
};

struct ref_row {
    uint8_t place;
    uint8_t reason;
    uint8_t consumer; /* who has it, or had it last; REF_CONSUMERS: nobody */
    uint8_t failed;
    uint8_t timed_out;
    uint8_t died;
    bool expired;  /* it is dying because it is about to go */
    uint8_t error; /* number of the text of the last negative ack, when that was the last attempt */
    uint16_t takers;
    uint64_t pull_sequence;
    uint64_t time_ms; /* held: has time until then, 0: for ever. Pending: not before */
};

struct ref_consumer {
    bool known;
    uint8_t filter;
    uint64_t session; /* 0: dead */
    uint64_t token;
    uint64_t next;       /* pull sequence */
    uint64_t back_below; /* something below has come back, at least once */
    uint64_t seen_ms;
};

struct ref_group {
    bool exists;
    bool paused;
    bool broadcast;
    struct qlog_group_settings settings;
    uint64_t cursor;
    uint64_t epoch;
    uint64_t dead;
    uint64_t expired;
    uint64_t skipped;
    uint64_t seen_ms; /* the last of its consumers that is forgotten */
    struct ref_filter filters[QLOG_FILTERS_MAX];
    struct ref_consumer consumers[REF_CONSUMERS];
    struct ref_row rows[REF_MESSAGES];
};

struct ref_state {
    uint64_t now_ms;
    uint64_t generation;
    uint64_t first; /* stored from here */
    uint64_t end;
    struct ref_group groups[REF_GROUPS];
    /* Pull sequences that a consumer of this id was given, whoever it was: none is given twice. */
    uint64_t given[REF_GROUPS][REF_CONSUMERS];
};

struct ref_dead {
    uint8_t group;
    uint64_t sequence;
    uint8_t failed;
    uint8_t timed_out;
    uint8_t died;
    uint8_t error;
    bool expired;
};

struct reference {
    struct ref_state state;
    struct ref_message messages[REF_MESSAGES];
    struct ref_dead *dead; /* all dead letters, in order */
    uint32_t dead_count;
    uint32_t dead_max;
};

/* What a call answers. */
struct ref_hand {
    uint64_t pull_sequence;
    uint64_t sequence;
    uint32_t attempt;
};

struct ref_answer {
    enum q_err err;
    struct ref_hand hands[REF_PULL_MAX];
    uint32_t hand_count;
    uint64_t cursor;
    uint64_t epoch;
    uint64_t affected;
    uint64_t waiting;
    uint64_t pending;
    uint64_t unacked;
    bool created;
    bool reused;      /* its pull sequences were given to another */
    uint32_t late[4]; /* numbers of the ranges that came too late */
    uint32_t late_count;
    uint32_t dying;
    enum qlog_held held;
};

struct ref_lag {
    uint64_t pending[REF_REASONS];
    uint64_t ready;
    uint64_t waiting;
    uint64_t in_flight;
    uint64_t oldest; /* UINT64_MAX: none */
    uint32_t members;
    uint32_t filters;
    uint32_t consumers;
    enum qlog_held held;
};

struct ref_who {
    uint32_t group;
    uint32_t consumer;
    uint64_t session;
};

struct ref_join {
    struct ref_who who; /* `session`: what the machine gave */
    uint64_t token;
    uint64_t next; /* pull sequence that the machine gave to a new consumer */
    uint8_t tags;
    bool all;
    bool broadcast;
    enum qlog_start start;
    uint64_t at;
    const struct qlog_group_settings *settings;
};

struct ref_pull {
    struct ref_who who;
    uint32_t max;
    uint64_t received;
    uint32_t invisible_ms;
    bool once;
};

void ref_publish(struct reference *ref, const struct ref_message *messages, uint32_t count);
/* Where what was stored at or after a time begins. */
uint64_t ref_start_at(const struct reference *ref, uint64_t at_ms);
struct ref_answer ref_join(struct reference *ref, const struct ref_join *join);
struct ref_answer ref_keep_alive(struct reference *ref, const struct ref_who *who);
struct ref_answer ref_leave(struct reference *ref, const struct ref_who *who);
struct ref_answer ref_pull(struct reference *ref, const struct ref_pull *pull);
/* Ranges in any order. */
struct ref_answer ref_ack(
    struct reference *ref,
    const struct ref_who *who,
    const struct qlog_range *ranges,
    uint32_t count);
struct ref_answer ref_nack(
    struct reference *ref,
    const struct ref_who *who,
    const struct qlog_range *ranges,
    uint32_t count,
    uint64_t delay_ms,
    uint8_t error);
/* Of `control` what its caller sets. */
struct ref_answer ref_control(
    struct reference *ref, uint32_t group, const struct qlog_control *control);
struct ref_lag ref_lag(const struct reference *ref, uint32_t group);
/* When something happens by itself; UINT64_MAX: never. `due`: also when a pending message is due. */
uint64_t ref_next_ms(const struct reference *ref, bool due);
/* It is so late, and all that is due happens. Not later than ref_next_ms(). */
void ref_time(struct reference *ref, uint64_t now_ms);
/* Messages below `first` are stored no more: what groups had in hand of them is dead. */
void ref_trim(struct reference *ref, uint64_t first);
/* The broker has started again. */
void ref_restart(struct reference *ref, uint64_t generation);

#endif /* TESTS_MODEL_REFERENCE_H */
