/*
 * test_testing.c: the queue for users' tests, through its public header and the shared libraries.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qmq/testing.h>

enum {
    WAIT_MS = 60 * 1000
};

static struct qmq_client *
connect_to(struct qmq_testing *queue)
{
    struct qmq_client_options options = { .meta = qmq_testing_meta(queue) };
    struct qmq_client *client;
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
    return client;
}

static void
send_one(struct qmq_testing *queue, const char *text)
{
    struct qmq_client *client = connect_to(queue);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    struct qmq_outgoing message = { .body = { text, strlen(text) } };
    cr_assert_eq(
        qmq_send_wait(producer, "orders", &message, NULL), QMQ_OK, "%s", qmq_last_error().message);
    qmq_producer_free(producer);
    qmq_client_free(client);
}

static void
expect_one(struct qmq_testing *queue, const char *text)
{
    struct qmq_client *client = connect_to(queue);
    struct qmq_consumer_options wanted = { .subject = "orders", .group = "g" };
    struct qmq_consumer *consumer;
    cr_assert_eq(qmq_consumer_new(client, &wanted, &consumer), QMQ_OK);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 1, WAIT_MS, &batch), QMQ_OK, "%s", qmq_last_error().message);
    const struct qmq_message *message = qmq_batch_message(batch, 0);
    cr_assert_eq(message->body.size, strlen(text));
    cr_assert_eq(memcmp(message->body.data, text, strlen(text)), 0);
    cr_assert_eq(qmq_ack(consumer, batch, 0, 1), QMQ_OK);
    qmq_batch_free(batch);
    qmq_consumer_free(consumer);
    qmq_client_free(client);
}

/* Two at a time know nothing of each other. */
Test(testing, side_by_side, .timeout = 120)
{
    struct qmq_testing *queues[2];
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(qmq_testing_start(NULL, &queues[i]), QMQ_OK);
    send_one(queues[0], "zero");
    send_one(queues[1], "one");
    expect_one(queues[1], "one");
    expect_one(queues[0], "zero");
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(qmq_testing_stop(queues[i]), QMQ_OK);
}

/* What was stored before a restart is there after it; so are the groups. */
Test(testing, restart, .timeout = 120)
{
    struct qmq_testing *queue;
    cr_assert_eq(qmq_testing_start(NULL, &queue), QMQ_OK);
    send_one(queue, "a");
    send_one(queue, "b");
    expect_one(queue, "a");
    cr_assert_eq(qmq_testing_restart(queue), QMQ_OK, "%s", qmq_testing_last_error().message);
    expect_one(queue, "b");
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK);
}

/* A directory of one's own outlives the queue. */
Test(testing, kept_directory, .timeout = 120)
{
    char directory[] = "/tmp/test-testing-XXXXXX";
    cr_assert_not_null(mkdtemp(directory));
    struct qmq_testing_options options = { .directory = directory };
    struct qmq_testing *queue;
    cr_assert_eq(qmq_testing_start(&options, &queue), QMQ_OK);
    send_one(queue, "kept");
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK);
    cr_assert_eq(
        qmq_testing_start(&options, &queue), QMQ_OK, "%s", qmq_testing_last_error().message);
    expect_one(queue, "kept");
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK);
    char command[64];
    (void)snprintf(command, sizeof(command), "rm -r %s", directory);
    cr_assert_eq(system(command), 0);
}

static unsigned
count_directories(const char *path)
{
    unsigned count = 0;
    DIR *all = opendir(path);
    if (all == NULL) return 0;
    static const char prefix[] = "qmq-testing-";
    for (struct dirent *one; (one = readdir(all)) != NULL;)
        count += strncmp(one->d_name, prefix, sizeof(prefix) - 1) == 0;
    (void)closedir(all);
    return count;
}

/* A start that fails says why, and leaves nothing. */
Test(testing, failures, .timeout = 120)
{
    struct qmq_testing *queue;
    struct qmq_testing_options options = { .directory = "/nowhere/at/all" };
    cr_assert_neq(qmq_testing_start(&options, &queue), QMQ_OK);
    cr_assert_neq(qmq_testing_last_error().code, QMQ_OK);
    cr_assert_not_null(strstr(qmq_testing_last_error().message, "/nowhere/at/all"));

    /* Somebody else's files. */
    char directory[] = "/tmp/test-testing-XXXXXX";
    cr_assert_not_null(mkdtemp(directory));
    char command[128];
    (void)snprintf(
        command, sizeof(command), "mkdir %s/broker && touch %s/broker/mine", directory, directory);
    cr_assert_eq(system(command), 0);
    options.directory = directory;
    cr_assert_neq(qmq_testing_start(&options, &queue), QMQ_OK);
    cr_assert_not_null(strstr(qmq_testing_last_error().message, "mine"));
    (void)snprintf(command, sizeof(command), "rm -r %s", directory);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(qmq_testing_stop(NULL), QMQ_OK);
}

/* Memory, or the temporary directory when it is said to be small: gone with the queue. */
Test(testing, nothing_is_left, .timeout = 120)
{
    char directory[] = "/tmp/test-testing-XXXXXX";
    cr_assert_not_null(mkdtemp(directory));
    cr_assert_eq(setenv("TMPDIR", directory, 1), 0);
    struct qmq_testing *queue;
    cr_assert_eq(qmq_testing_start(NULL, &queue), QMQ_OK);
    send_one(queue, "x");
    cr_assert_eq(count_directories("/dev/shm") + count_directories(directory) > 0, true);
    cr_assert_eq(qmq_testing_stop(queue), QMQ_OK);
    cr_assert_eq(rmdir(directory), 0, "nothing is left in it");
}
