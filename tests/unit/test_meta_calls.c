/*
 * test_meta_calls.c: meta as its callers see it.
 */
#include <meta/meta.h>

#include <common/log.h>

#include "test_servers_common.h"

static struct meta *meta;
static struct qnet_caller *caller;

static void
start(void)
{
    const struct meta_options options = {
        .directory = test_directory,
        .url = "tcp://127.0.0.1:0",
        .clock = q_clock_system(),
        .program = "test 0",
        .node_id = "n0",
        .roles = "meta",
    };
    cr_assert_eq(meta_start(&options, &meta), Q_OK);
    caller = test_connect(meta_url(meta));
}

static void
stop(void)
{
    qnet_caller_free(caller);
    meta_stop(meta);
}

static void
set_up(void)
{
    srv_log_set_level(SRV_ERROR);
    test_directory_make();
    start();
}

static void
tear_down(void)
{
    stop();
    test_directory_remove();
}

TestSuite(meta_calls, .init = set_up, .fini = tear_down);

static struct test_call *
register_begin(const char *node_id, const char *group)
{
    Qmq__Wire__NodeRecord record = QMQ__WIRE__NODE_RECORD__INIT;
    record.node_id = (char *)node_id;
    record.cluster = (char *)"default";
    record.broker_group = (char *)group;
    record.role = (char *)"broker";
    record.address = (char *)"tcp://10.0.0.1:1";
    return test_call_begin(
        caller, QPROTO_META_REGISTER, &record.base, (struct q_bytes){ .size = 0 });
}

static bool
register_node(const char *node_id, const char *group)
{
    struct test_call *call = register_begin(node_id, group);
    cr_assert_eq(test_call_wait(call), Q_OK);
    bool admitted = ((Qmq__Wire__RegisterAnswer *)call->header)->admitted;
    test_call_free(call);
    return admitted;
}

static struct test_call *
route_begin(struct qnet_caller *by, const char *subject, uint64_t known_version, uint32_t wait_ms)
{
    Qmq__Wire__RouteRequest request = QMQ__WIRE__ROUTE_REQUEST__INIT;
    request.subject = (char *)subject;
    request.assign = true;
    request.known_version = known_version;
    request.wait_ms = wait_ms;
    return test_call_begin(by, QPROTO_META_ROUTE, &request.base, (struct q_bytes){ .size = 0 });
}

/* Its groups; its version, when wanted. */
static size_t
route_end(struct test_call *call, uint64_t *ret_version)
{
    cr_assert_eq(test_call_wait(call), Q_OK);
    const Qmq__Wire__RouteAnswer *answer = (const Qmq__Wire__RouteAnswer *)call->header;
    size_t count = answer->n_groups;
    if (ret_version) *ret_version = answer->version;
    test_call_free(call);
    return count;
}

/* Two brokers register, and a route lists both; a node that is refused is told what it waits for. */
Test(meta_calls, register_and_route)
{
    cr_expect(register_node("1", "a"));
    cr_expect(register_node("2", "b"));
    cr_expect_eq(route_end(route_begin(caller, "orders", 0, 0), NULL), 2);

    struct test_call *refused = register_begin("3", "a");
    cr_assert_eq(test_call_wait(refused), Q_OK);
    const Qmq__Wire__RegisterAnswer *answer = (const Qmq__Wire__RegisterAnswer *)refused->header;
    cr_expect(!answer->admitted);
    cr_expect(strstr(answer->waiting_for, "--broker-group"));
    test_call_free(refused);
}

/* A call that knows the route waits, until it changes; then it has the new one at once. */
Test(meta_calls, a_waiting_route_call_is_woken)
{
    cr_expect(register_node("1", "a"));
    uint64_t version;
    cr_expect_eq(route_end(route_begin(caller, "orders", 0, PATIENCE_MS), &version), 1);

    struct test_call *one = route_begin(caller, "orders", version, PATIENCE_MS);
    struct test_call *other = route_begin(caller, "orders", version, PATIENCE_MS);
    usleep(50000);
    cr_expect(!test_call_is_over(one));
    cr_expect(register_node("2", "b"));
    cr_expect_eq(route_end(one, NULL), 2);
    cr_expect_eq(route_end(other, NULL), 2);
}

/* A wait that nothing ends is over in time, with the route as it is. */
Test(meta_calls, a_waiting_route_call_times_out)
{
    cr_expect(register_node("1", "a"));
    uint64_t version;
    uint64_t same;
    cr_expect_eq(route_end(route_begin(caller, "", 0, 0), &version), 1);
    cr_expect_eq(route_end(route_begin(caller, "", version, 30), &same), 1);
    cr_expect_eq(same, version);
}

/* Waiting calls of a client that has gone are forgotten; others, and meta, go on. */
Test(meta_calls, calls_of_a_gone_client_are_dropped)
{
    uint64_t version;
    cr_expect_eq(route_end(route_begin(caller, "orders", 0, 0), &version), 0);

    struct qnet_caller *gone = test_connect(meta_url(meta));
    struct test_call *calls[100];
    for (int i = 0; i < 100; i++)
        calls[i] = route_begin(gone, "orders", version, PATIENCE_MS);
    struct test_call *mine = route_begin(caller, "orders", version, PATIENCE_MS);
    usleep(50000);
    qnet_caller_free(gone);
    for (int i = 0; i < 100; i++) {
        cr_expect_eq(test_call_wait(calls[i]), Q_STOPPING);
        test_call_free(calls[i]);
    }
    cr_expect(register_node("1", "a"));
    cr_expect_eq(route_end(mine, NULL), 1);
}

/* Nodes and assignments are there after a restart of meta. */
Test(meta_calls, restart_keeps_what_is_known)
{
    cr_expect(register_node("1", "a"));
    cr_expect(register_node("2", "b"));
    uint64_t before;
    uint64_t after;
    cr_expect_eq(route_end(route_begin(caller, "orders", 0, 0), &before), 2);
    stop();
    start();
    cr_expect_eq(route_end(route_begin(caller, "orders", 0, 0), &after), 2);
    cr_expect_eq(after, before);

    const Qmq__Wire__Empty nothing = QMQ__WIRE__EMPTY__INIT;
    struct test_call *call =
        test_call_begin(caller, QPROTO_META_NODES, &nothing.base, (struct q_bytes){ .size = 0 });
    cr_assert_eq(test_call_wait(call), Q_OK);
    cr_expect_eq(((Qmq__Wire__NodesAnswer *)call->header)->n_nodes, 2);
    test_call_free(call);
}

/* What meta can't do is answered with an error object that says where to go, not with silence. */
Test(meta_calls, wrong_calls_are_answered)
{
    const Qmq__Wire__Empty nothing = QMQ__WIRE__EMPTY__INIT;
    struct test_call *call =
        test_call_begin(caller, QPROTO_PULL, &nothing.base, (struct q_bytes){ .size = 0 });
    cr_expect_eq(test_call_wait(call), Q_UNKNOWN_OPERATION);
    test_call_free(call);

    call = test_call_begin(caller, 9999, &nothing.base, (struct q_bytes){ .size = 0 });
    cr_expect_eq(test_call_wait(call), Q_UNKNOWN_OPERATION);
    test_call_free(call);

    call = route_begin(caller, "no spaces", 0, 0);
    cr_expect_eq(test_call_wait(call), Q_INVALID);
    cr_expect_str_eq(test_call_error(call)->name, "INVALID");
    cr_expect(strstr(test_call_error(call)->message, "subject"));
    test_call_free(call);
}

/* A stop answers those who wait, so that they can go elsewhere. */
Test(meta_calls, stop_answers_waiting_calls)
{
    uint64_t version;
    cr_expect_eq(route_end(route_begin(caller, "orders", 0, 0), &version), 0);
    struct test_call *call = route_begin(caller, "orders", version, PATIENCE_MS);
    usleep(50000);
    meta_stop(meta);
    cr_expect_eq(test_call_wait(call), Q_STOPPING);
    test_call_free(call);
    qnet_caller_free(caller);
    start();
}
