/*
 * store_client.h: a process that has a message store open on a simulated disk, and its clients.
 *
 * Requests are submitted and go on their way; what is answered goes into the history.
 */
#ifndef TESTS_CRASH_STORE_CLIENT_H
#define TESTS_CRASH_STORE_CLIENT_H

#include <qbase/clock.h>

#include "random.h"
#include "store_model.h"

enum {
    CLIENT_CONSUMERS = 6,
    CLIENT_HANDS_MAX = 64
};

struct store_client;

/* One that takes part in a group. */
struct client_consumer {
    unsigned subject;
    char group[MODEL_NAME_MAX];
    char name[MODEL_NAME_MAX];
    int tag;
    uint64_t session; /* 0: none */
    uint64_t received;
    struct qlog_run hands[CLIENT_HANDS_MAX]; /* given, and not acknowledged */
    unsigned hand_count;
    bool busy;      /* a join, pull or leave is under way */
    uint64_t given; /* messages, in all */
};

struct store_client {
    struct store_history *history;
    struct simdisk *disk;
    struct verdict *verdict;
    struct random_source random;
    struct q_clock_manual clock;
    struct qlog_observer observer;
    struct qlog_store_options options;
    struct qlog_store *store;
    struct client_consumer consumers[CLIENT_CONSUMERS];
    unsigned outstanding;
    unsigned waiting; /* of these, pulls that may wait long */
    bool dying;
};

void client_init(
    struct store_client *client,
    struct store_history *history,
    const struct qlog_store_options *options,
    uint64_t seed,
    struct simdisk *disk,
    struct verdict *verdict);

/* Recover and verify. False: something is wrong, and nothing is open. */
bool client_open(struct store_client *client);
bool client_close(struct store_client *client);
/* The process is killed, or the power goes. */
void client_stop(struct store_client *client, bool kill);

bool client_turn(struct store_client *client);
/* Until everything but waiting pulls is answered. */
bool client_drain(struct store_client *client);
/* Until all is answered, flushed, and can be seen. */
bool client_settle(struct store_client *client);
void client_verify(struct store_client *client);

void client_publish(struct store_client *client, unsigned batches, uint32_t body, bool async);
/* Two of them, the second before the first. */
void client_publish_crossed(struct store_client *client, unsigned batches, uint32_t body);
/* One of the last is sent once more, whatever became of it. */
void client_publish_again(struct store_client *client, bool async);
void client_join(struct store_client *client, struct client_consumer *consumer, bool latest);
void client_pull(
    struct store_client *client, struct client_consumer *consumer, uint32_t max, uint64_t wait_ns);
/* Acknowledge a part of what the consumer was given. */
void client_ack(struct store_client *client, struct client_consumer *consumer, bool all);
void client_leave(struct store_client *client, struct client_consumer *consumer);
void client_trim(struct store_client *client);

#endif /* TESTS_CRASH_STORE_CLIENT_H */
