/*
 * delay_client.h: a user of a delay store on a simulated disk, the brokers it sends to, and a list of
 * all messages that says what may and must have become of each.
 *
 * Brokers are machines of their own: what they have stored stays through every crash of the delay
 * store, and is cut with the history at the moment of the crash.
 */
#ifndef TESTS_CRASH_DELAY_CLIENT_H
#define TESTS_CRASH_DELAY_CLIENT_H

#include <qbase/clock.h>
#include <qlog/delay.h>

#include "random.h"
#include "work.h"

enum {
    DELAY_TARGETS = 2,
    DELAY_PRODUCERS = 2,
    DELAY_BATCHES_MAX = 3,
    DELAY_SENDS_MAX = 64,
    DELAY_MOVES_MAX = 32
};

struct delay_plan {
    const char *name;
    unsigned steps;
    unsigned burst;   /* messages of a publish, at most */
    unsigned body;    /* bytes of a body, at most */
    unsigned far;     /* percent of the messages that are due in days */
    unsigned async;   /* percent of the publishes */
    unsigned repeat;  /* ... that are sent again, and of those that overtake another */
    unsigned cancel;  /* percent of the steps: cancel one */
    unsigned move;    /* ... reschedule one */
    unsigned sleep;   /* ... time passes */
    unsigned flaky;   /* percent of the sends that fail, or whose answer is lost */
    unsigned away;    /* percent of the steps: a broker group comes or goes */
    unsigned clock;   /* ... the wall clock is stepped */
    unsigned clean;   /* ... close and open again */
    unsigned kill;    /* ... kill -9 */
    unsigned power;   /* ... power loss */
    unsigned refuse;  /* percent of the messages that no broker group takes before the end */
    unsigned forget;  /* percent of the sends at which their broker group forgets the store */
    unsigned harm;    /* percent of the starts before which something is done to schedule files */
    unsigned segment; /* bytes */
    unsigned round;   /* bytes of the dispatch log between rounds */
};

struct delay_item {
    uint32_t id; /* the counter of its message id */
    uint32_t subject;
    uint64_t due_ms;
    uint64_t sequence;
    struct promise promise;
    bool cancel_asked;
    struct promise cancel;
    bool move_asked;
    uint64_t moved_to[DELAY_MOVES_MAX]; /* every time that was ever asked for */
    unsigned moves;
    uint64_t move_due_ms; /* the last one */
    uint64_t move_sequence;
    struct promise move;
};

/* A request of a producer. */
struct delay_request {
    uint64_t submitted;
    uint64_t answered; /* MEDIA_NEVER: it has no answer yet */
    uint64_t given_up; /* MEDIA_NEVER: the store can't tell what became of it */
    unsigned producer;
    uint64_t number;
    unsigned first_item;
    bool async;
    uint32_t batch_count;
    uint32_t counts[DELAY_BATCHES_MAX];
    uint32_t subjects[DELAY_BATCHES_MAX];
    uint64_t dues[DELAY_BATCHES_MAX];
    uint32_t sizes[DELAY_BATCHES_MAX][2]; /* envelope, payload */
    uint32_t envelopes_size;
    uint32_t payloads_size;
    uint8_t *bytes; /* as they are sent each time */
};

/* A request that a broker group has stored. */
struct delay_stored {
    uint64_t moment;
    unsigned target;
    uint8_t producer_id[16];
    uint64_t request;
    uint64_t hash;
    bool refused; /* it was not, and has its number all the same */
    uint32_t *ids;
    uint32_t count;
};

/* Who a broker group does not know any more. */
struct delay_forgotten {
    uint64_t moment;
    unsigned target;
    uint8_t producer_id[16];
};

struct delay_history {
    struct history history;
    const struct delay_plan *plan;
    struct delay_item *items;
    unsigned count;
    unsigned capacity;
    struct delay_request *requests;
    unsigned request_count;
    struct delay_stored *stored;
    unsigned stored_count;
    unsigned stored_capacity;
    struct delay_forgotten *forgotten;
    unsigned forgotten_count;
    uint32_t next_id;
    uint64_t monotonic_ns; /* where the clocks stood at the end */
    uint64_t wall_ms;
};

struct delay_client {
    struct delay_history *history;
    const struct delay_plan *plan;
    struct simdisk *disk;
    struct verdict *verdict;
    struct random_source random;
    struct q_clock_manual clock;
    struct qlog_observer observer;
    struct qlog_delay *delay;
    unsigned outstanding;
    bool dying;
    bool away[DELAY_TARGETS];
    bool takes_all; /* nothing is refused any more */
    struct qlog_delay_send *sends[DELAY_SENDS_MAX];
    unsigned send_count;
    uint64_t repeats;
    /* What the effective clock may be: wall - monotonic of now, and of before a step. */
    int64_t off_ms;
    int64_t old_off_ms;
    uint64_t old_until_ns;
    uint64_t stepped_ns; /* 0: no step is being waited for */
    uint8_t *old_file;   /* a schedule file as it was once */
    uint64_t old_size;
};

struct delay_history *delay_history_new(
    const struct work_kind *kind, const struct delay_plan *plan);
struct delay_history *delay_history_cut(const struct delay_history *whole, uint64_t at, bool kill);
void delay_history_free(struct delay_history *history);

void delay_client_init(
    struct delay_client *client,
    struct delay_history *history,
    uint64_t seed,
    struct simdisk *disk,
    struct verdict *verdict);
/* All of these: false: something was wrong, and is in the verdict. */
bool delay_client_open(struct delay_client *client);
bool delay_client_step(struct delay_client *client);
/* Brokers are well, and time passes until nothing waits; then every message is where it belongs. */
bool delay_client_finish(struct delay_client *client);
bool delay_client_close(struct delay_client *client);
void delay_client_stop(struct delay_client *client, bool kill);
/* Something happens to a schedule file. The store is closed. */
void delay_client_harm(struct delay_client *client);
void delay_client_fini(struct delay_client *client);

#endif /* TESTS_CRASH_DELAY_CLIENT_H */
