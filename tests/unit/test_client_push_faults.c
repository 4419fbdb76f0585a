/*
 * A push consumer against nodes that misbehave: what is handled is acknowledged in the end, whatever
 * happens to sessions, connections and broker groups.
 */
#include <unistd.h>

#include "fake_node.h"
#include "push_probe.h"

enum {
    STORED = 1000,
    PER_BATCH = 25
};

static struct qmq_client *client;

/* Bodies that the probe understands. */
static void
store_probed(struct fake_node *fake, unsigned first, unsigned count)
{
    static char texts[PER_BATCH][32];
    for (unsigned done = 0; done < count; done += PER_BATCH) {
        const char *bodies[PER_BATCH];
        for (unsigned index = 0; index < PER_BATCH; index++) {
            bodies[index] = texts[index];
            (void)snprintf(texts[index], sizeof(texts[0]), "0 %u", first + done + index);
        }
        fake_store(fake, bodies, PER_BATCH, false);
    }
}

static struct qmq_push *
push_on(struct fake_node *fake, struct probe *probe)
{
    struct qmq_client_options options = { .meta = fake_url(fake), .timeout_ms = 5000 };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
    const struct qmq_consumer_options wanted = { .subject = FAKE_SUBJECT, .group = "billing" };
    const struct qmq_push_options push_options = {
        .consumer = &wanted,
        .handler = probe_handle,
        .context = probe,
        .threads = 2,
        .prefetch_messages = 100,
        .trouble = probe_trouble,
        .trouble_context = probe,
    };
    struct qmq_push *push;
    cr_assert_eq(
        qmq_push_new(client, &push_options, &push), QMQ_OK, "%s", qmq_last_error().message);
    return push;
}

static void
push_end(struct qmq_push *push, struct fake_node *fake, struct probe *probe)
{
    qmq_push_free(push);
    qmq_client_free(client);
    fake_free(fake);
    probe_free(probe);
}

Test(client_push_faults, pulls_from_all_broker_groups, .timeout = 120)
{
    struct fake_node *fake = fake_new("a");
    struct fake_node *other = fake_new("b");
    struct probe *probe = probe_new();
    fake_list(fake, other, false);
    store_probed(fake, 0, STORED);
    store_probed(other, STORED, STORED);
    struct qmq_push *push = push_on(fake, probe);
    probe_wait(probe, probe->calls == 2 * STORED);
    cr_assert_eq(qmq_push_stop(push, PATIENCE_S * 1000), QMQ_OK);
    probe_expect_once(probe, 0, 2 * STORED);
    cr_assert_eq(fake_acked_count(fake), STORED);
    cr_assert_eq(fake_acked_count(other), STORED);
    qmq_push_free(push);
    qmq_client_free(client);
    fake_free(other);
    fake_free(fake);
    probe_free(probe);
}

/* One that is away holds up neither the messages nor the acks of the other. */
Test(client_push_faults, goes_on_without_one_broker_group, .timeout = 120)
{
    struct fake_node *fake = fake_new("a");
    struct fake_node *other = fake_new("b");
    struct probe *probe = probe_new();
    fake_list(fake, other, false);
    store_probed(other, STORED, PER_BATCH);
    probe->is_closed = true;
    struct qmq_push *push = push_on(fake, probe);
    probe_wait(probe, probe->running == 2);
    fake_kill(other);
    probe_open(probe, true);
    store_probed(fake, 0, STORED);
    probe_wait(probe, probe->calls >= STORED + PER_BATCH);
    while (fake_acked_count(fake) < STORED)
        usleep(1000);
    probe_wait(probe, probe->troubles[QMQ_TROUBLE_ACK] > 0);
    fake_start(other);
    cr_assert_eq(qmq_push_stop(push, PATIENCE_S * 1000), QMQ_OK);
    probe_expect_once(probe, 0, STORED + PER_BATCH);
    cr_assert_eq(fake_acked_count(other), PER_BATCH);
    qmq_push_free(push);
    qmq_client_free(client);
    fake_free(other);
    fake_free(fake);
    probe_free(probe);
}

/* Acks go through whatever happens to session and broker; none of it is a second call. */
Test(client_push_faults, acks_go_through, .timeout = 120)
{
    struct fake_node *fake = fake_new("a");
    struct probe *probe = probe_new();
    struct qmq_push *push = push_on(fake, probe);
    fake_refuse(fake, QPROTO_ACK, Q_BUSY, 3);
    store_probed(fake, 0, 100);
    probe_wait(probe, probe->calls == 100);
    fake_forget_session(fake);
    store_probed(fake, 100, 100);
    probe_wait(probe, probe->calls == 200);
    while (fake_acked_count(fake) < 200)
        usleep(1000);
    cr_assert_gt(probe->troubles[QMQ_TROUBLE_ACK], 0);
    probe_expect_once(probe, 0, 200);
    push_end(push, fake, probe);
}

/* An end does not wait for a broker that does not answer: what it holds comes again. */
Test(client_push_faults, ends_without_a_broker, .timeout = 120)
{
    struct fake_node *fake = fake_new("a");
    struct probe *probe = probe_new();
    probe->is_closed = true;
    store_probed(fake, 0, 100);
    struct qmq_push *push = push_on(fake, probe);
    probe_wait(probe, probe->running == 2);
    fake_kill(fake);
    probe_open(probe, true);
    probe_wait(probe, probe->calls == 100);
    cr_assert_eq(qmq_push_stop(push, 100), QMQ_TIMED_OUT);
    push_end(push, fake, probe);
}

/* A delay that is refused: the message fails by the group's back-off instead, and that is told. */
Test(client_push_faults, fails_without_a_delay_that_is_refused, .timeout = 120)
{
    struct fake_node *fake = fake_new("a");
    struct probe *probe = probe_new();
    probe->fail_always = 1;
    probe->nack = (struct qmq_nack_options){ .with_delay = true, .delay_ms = UINT64_MAX / 2 };
    fake_refuse(fake, QPROTO_NACK, Q_DELAY_TOO_LONG, 1);
    store_probed(fake, 0, PER_BATCH);
    struct qmq_push *push = push_on(fake, probe);
    while (fake_nacked_count(fake) < PER_BATCH)
        usleep(1000);
    probe_wait(probe, probe->troubles[QMQ_TROUBLE_NACK] == 1);
    cr_assert_eq(probe->trouble_code, QMQ_DELAY_TOO_LONG);
    push_end(push, fake, probe);
}

/* Somebody else has its id: it pulls no more, and says so. */
Test(client_push_faults, tells_why_it_pulls_no_more, .timeout = 120)
{
    struct fake_node *fake = fake_new("a");
    struct probe *probe = probe_new();
    struct qmq_push *push = push_on(fake, probe);
    fake_refuse(fake, QPROTO_PULL, Q_CONSUMER_REPLACED, 1);
    store_probed(fake, 0, PER_BATCH);
    struct qmq_push_info info;
    do {
        store_probed(fake, 0, PER_BATCH);
        usleep(1000);
        qmq_push_info(push, &info);
    } while (info.code == QMQ_OK);
    cr_assert_eq(info.code, QMQ_CONSUMER_REPLACED);
    cr_assert_eq(probe->troubles[QMQ_TROUBLE_PULL], 1);
    push_end(push, fake, probe);
}
