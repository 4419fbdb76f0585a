/*
 * store_fixture.h: a store in a directory of its own, and calls that wait for their answer.
 *
 * Time is a manual clock's; waiting for the disk does not move it.
 */
#ifndef TESTS_UNIT_STORE_FIXTURE_H
#define TESTS_UNIT_STORE_FIXTURE_H

#include <qbase/clock.h>
#include <qlog/store.h>

enum {
    FIXTURE_RUNS_MAX = 64,
    FIXTURE_PIECES_MAX = 64,
    FIXTURE_EVENTS_MAX = 64
};

struct store_fixture {
    char directory[64];
    struct q_clock_manual clock;
    struct qlog_observer observer;
    struct qlog_store_options options;
    struct qlog_store *store;
    uint32_t counter;                    /* of message ids */
    char key[16];                        /* of what is published next; "": none */
    unsigned events[FIXTURE_EVENTS_MAX]; /* by kind */
    uint64_t torn_bytes;
    struct qlog_pull pull_extra; /* of what pulls ask for beside their arguments */
};

struct pulled {
    enum q_err err;
    struct qlog_run runs[FIXTURE_RUNS_MAX];
    uint32_t run_count;
    uint32_t piece_count;
    uint64_t unacked;
    uint64_t waiting;
    char text[4096]; /* bodies of the runs' messages, joined by ',' */
};

/* Small segments; the io that the environment allows; no scrubber unless a test asks for it. */
void fixture_open(struct store_fixture *fixture);
/* Close, or leave everything as kill -9 would (the directory is unlocked), and open again. */
void fixture_reopen(struct store_fixture *fixture);
void fixture_crash(struct store_fixture *fixture);
/* Close and remove the directory. */
void fixture_close(struct store_fixture *fixture);
/* Submit and turn until it is answered. */
enum q_err fixture_run(struct store_fixture *fixture, struct qlog_request *request);
/* Turn until nothing moves any more. */
void fixture_settle(struct store_fixture *fixture);
/* Turn until nothing is on its way to the disk; what other threads of the store do is not waited for. */
void fixture_rest(struct store_fixture *fixture);
/* Turn until `*answers` is not 0. */
void fixture_settle_until(struct store_fixture *fixture, const unsigned *answers);

/* One batch with these bodies (separated by ','); each tagged `tag` unless NULL. First sequence. */
enum q_err fixture_publish(
    struct store_fixture *fixture,
    const char *subject,
    const char *bodies,
    const char *tag,
    uint64_t *ret_first);
/* Session, or 0 with *ret_err. */
uint64_t fixture_join(
    struct store_fixture *fixture, const char *group, const char *consumer, const char *tag);
struct pulled fixture_pull(
    struct store_fixture *fixture,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint32_t messages_max,
    uint64_t received);
enum q_err fixture_ack(
    struct store_fixture *fixture,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t first,
    uint64_t last);
/* Q_EXPIRED when any was. */
enum q_err fixture_nack(
    struct store_fixture *fixture,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t first,
    uint64_t last,
    uint64_t delay_ms,
    const char *error);
enum q_err fixture_leave(
    struct store_fixture *fixture, const char *group, const char *consumer, uint64_t session);
enum q_err fixture_keep_alive(
    struct store_fixture *fixture, const char *group, const char *consumer, uint64_t session);
/* A batch of "BODY:ORDERKEY,BODY,…". */
void fixture_publish_keyed(struct store_fixture *fixture, const char *subject, const char *bodies);

/* A pull that waits up to 5 s; its pieces are the test's to release. */
struct fixture_parked {
    struct qlog_pull pull;
    struct qlog_run runs[8];
    struct qlog_piece pieces[8];
    unsigned answers;
    enum q_err err;
};
void fixture_wait_for(
    struct store_fixture *fixture,
    struct fixture_parked *parked,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t received);
/* The same, and it does wait. */
void fixture_park(
    struct store_fixture *fixture,
    struct fixture_parked *parked,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t received);
/* The subject that join, pull and ack speak of: "orders". */
extern const char fixture_subject[];

#endif /* TESTS_UNIT_STORE_FIXTURE_H */
