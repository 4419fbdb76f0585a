/*
 * play_inside.h: what the parts of the player share.
 *
 *   play.c         operations as text; the loop; all groups are compared after each operation
 *   play_client.c  what clients do: publish, join, pull, ack …
 *   play_group.c   time, groups as a whole, stops and starts
 *
 * Thread: one.
 */
#ifndef TESTS_MODEL_PLAY_INSIDE_H
#define TESTS_MODEL_PLAY_INSIDE_H

#include "machine.h"
#include "play.h"
#include "reference.h"

enum {
    PLAY_CLIENTS = 5, /* of each group; some are two processes with one id */
    PLAY_KNOWN_MAX = 48,
    PLAY_DEAD_MAX = 4096,
    PLAY_LOG_MAX = 256,
    PLAY_SETTINGS = 4,
    PLAY_BROADCAST = 2 /* the group that is one */
};

/* A process that consumes, and what it knows. */
struct client {
    uint64_t session;
    uint64_t token;
    uint64_t received;
    uint64_t received_before;
    uint64_t known[PLAY_KNOWN_MAX]; /* the last pull sequences that it was given */
    uint32_t known_count;
};

/* What the model did since all actions were durable: power loss takes the end of it. */
struct logged {
    struct play_op op;
    uint64_t now_ms;
    uint64_t end;         /* of the subject */
    uint64_t tail;        /* of the action log, after it */
    uint64_t session;     /* that a join gave, */
    uint64_t next;        /* … where its pull sequences begin, */
    uint64_t cursor;      /* … and where a new group does */
    struct client client; /* before it */
};

struct play {
    struct machine machine;
    struct reference ref;
    struct client clients[REF_GROUPS][PLAY_CLIENTS];
    uint64_t tokens;
    struct ref_dead dead[PLAY_DEAD_MAX];
    uint32_t dead_seen[REF_GROUPS]; /* numbers in `dead` */
    uint64_t dead_at[REF_GROUPS];   /* sequences of dead letters */
    struct ref_state durable;
    struct logged log[PLAY_LOG_MAX];
    uint32_t log_count;
    bool plain;    /* nothing but simple operations since */
    uint64_t tail; /* of the action log, after the last operation */
    FILE *told;
    char *text; /* "": no difference yet */
};

extern const char *const play_groups[REF_GROUPS];
/* All of it, as defaults are the machine's. */
extern const struct qlog_group_settings play_group_settings[PLAY_SETTINGS];

/* A time at which, or near which, something was stored. --- play_client.c */
uint64_t play_moment_ms(const struct play *play, uint32_t number);
/* A start by time: the machine says where, and may be up to a second early. */
void play_check_start(struct play *play, uint64_t at_ms, uint64_t cursor);

typedef void play_fn(struct play *play, const struct play_op *op);
#define PLAY_DECLARE(name, often, what) play_fn play_##name;
PLAY_LIST(PLAY_DECLARE)
#undef PLAY_DECLARE

/* There is a difference. The first one is kept. */
void play_differ(struct play *play, const char *format, ...) Q_PRINTF(2, 3);
void play_tell(struct play *play, const char *format, ...) Q_PRINTF(2, 3);
/* True when both are fine. */
bool play_same_err(struct play *play, const char *what, enum q_err machine, enum q_err model);

#define SAME(play, what, machine, model)                                                           \
    do {                                                                                           \
        if ((uint64_t)(machine) != (uint64_t)(model))                                              \
            play_differ(                                                                           \
                (play), "%s: the machine says %llu, the model %llu", (what),                       \
                (unsigned long long)(machine), (unsigned long long)(model));                       \
    } while (0)

/* A simple operation, for which the model needs nothing but what is noted. --- play_client.c */
void play_note(
    struct play *play, const struct play_op *op, const struct client *before, uint64_t session);
/* The model does it again. */
void play_again(struct play *play, struct logged *logged);

#endif /* TESTS_MODEL_PLAY_INSIDE_H */
