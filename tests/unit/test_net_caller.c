/*
 * test_net_caller.c: what becomes of a call when things go wrong.
 */
#include "test_net_common.h"

#include <stdlib.h>

static const char *any_port = "tcp://127.0.0.1:0";

/* Nothing is sent twice: calls that a dying server had are over at once, and its successor on the
 * same port sees none of them. */
Test(net_caller, no_resend)
{
    enum {
        CALLS = 200
    };
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    char *url = strdup(qnet_server_url(net.server));
    struct qnet_caller *caller = net_connect(url);
    struct net_call calls[CALLS];

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        net_submit_number(caller, &calls[i], i, 0, &over);
    }
    WAIT_FOR(net.came == CALLS);
    cr_assert_eq(over, 0);

    uint64_t stopped_ms = net_now_ms();
    net_server_stop(&net);
    struct net_server successor;
    net_server_start(&successor, url, NULL);
    WAIT_FOR(over == CALLS);
    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert_eq(calls[i].err, Q_E_CONNECTION);
        cr_assert_leq(calls[i].ended_ms - stopped_ms, 1000);
    }

    WAIT_FOR(qnet_caller_is_connected(caller));
    net_check_echo(caller, "new");
    usleep(300 * 1000);
    cr_assert_eq(successor.came, 1);
    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert_eq(calls[i].ends, 1);
    }
    qnet_caller_free(caller);
    net_server_stop(&successor);
    free(url);
}

/* What is submitted before there is a connection waits for it, and leaves in its order. */
Test(net_caller, order_while_disconnected)
{
    enum {
        CALLS = 2000
    };
    const char *url = net_ipc_url("later");
    struct qnet_caller *caller;
    cr_assert_eq(qnet_caller_new(&(struct qnet_caller_options){ .url = url }, &caller), Q_OK);
    cr_assert_not(qnet_caller_is_connected(caller));
    struct net_call *calls = calloc(CALLS, sizeof(*calls));
    atomic_uint over = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        net_submit_number(caller, &calls[i], i, 0, &over);
    }
    usleep(50 * 1000);
    cr_assert_eq(over, 0);

    struct net_server net;
    net_server_start(&net, url, NULL);
    WAIT_FOR(over == CALLS);
    cr_assert_eq(net.came, CALLS);
    cr_assert_eq(net.disordered, 0);
    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert_eq(calls[i].err, Q_OK);
        cr_assert_eq(calls[i].answered, i);
    }
    free(calls);
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* No answer in time is Q_TIMED_OUT; the late answer goes to nobody. */
Test(net_caller, timed_out)
{
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));

    net.holds = true;
    uint64_t begun_ms = net_now_ms();
    struct qnet_buffer *answer;
    cr_assert_eq(qnet_caller_call(caller, net_text("slow"), 100, &answer), Q_TIMED_OUT);
    uint64_t took_ms = net_now_ms() - begun_ms;
    cr_assert(took_ms >= 95 && took_ms < 1000, "%d ms", (int)took_ms);
    cr_assert_str_eq(q_fault_last()->path, qnet_server_url(net.server));
    cr_assert_str_eq(q_fault_last()->what, "no answer within 100 ms");

    net.holds = false;
    net_release(&net, 1, true);
    for (unsigned i = 0; i < 100; i++) {
        net_check_echo(caller, "fast");
    }
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* A call that never left is Q_UNAVAILABLE, and does not leave later either. */
Test(net_caller, unavailable)
{
    const char *url = net_ipc_url("unavailable");
    struct qnet_caller *caller;
    cr_assert_eq(qnet_caller_new(&(struct qnet_caller_options){ .url = url }, &caller), Q_OK);

    uint64_t begun_ms = net_now_ms();
    struct qnet_buffer *answer;
    cr_assert_eq(qnet_caller_call(caller, net_text("hello?"), 100, &answer), Q_UNAVAILABLE);
    cr_assert_geq(net_now_ms() - begun_ms, 95);
    cr_assert_str_eq(q_fault_last()->path, url);

    struct net_server net;
    net_server_start(&net, url, NULL);
    net_check_echo(caller, "now");
    cr_assert_eq(net.came, 1);
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* A server that does not read: what it never took is told apart from what it did not answer. */
Test(net_caller, unavailable_behind_a_full_connection)
{
    enum {
        CALLS = 64,
        BYTES = 1024 * 1024
    };
    struct net_server net;
    net_server_start(&net, any_port, &(struct qnet_server_options){ .calls_max = 1 });
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct net_call calls[CALLS];

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        struct qnet_buffer *buffer;
        cr_assert_eq(qnet_buffer_new(BYTES, &buffer), Q_OK);
        net_submit(caller, &calls[i], buffer, 300, &over);
    }
    WAIT_FOR(over == CALLS);
    cr_assert_eq(calls[0].err, Q_TIMED_OUT);
    cr_assert_eq(calls[CALLS - 1].err, Q_UNAVAILABLE);
    unsigned taken = 0;
    while (calls[taken].err == Q_TIMED_OUT) {
        taken++;
    }
    for (unsigned i = taken; i < CALLS; i++) {
        cr_assert_eq(calls[i].err, Q_UNAVAILABLE);
    }

    net.holds = false;
    net_release(&net, 1, true);
    net_check_echo(caller, "again");
    cr_assert_eq(net.came, taken + 1);
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* A cancelled call is over at once, whether it had left or not; cancelling too late does nothing. */
Test(net_caller, cancel)
{
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct net_call call;
    atomic_uint over = 0;

    net.holds = true;
    net_submit_number(caller, &call, 0, 0, &over);
    WAIT_FOR(net.came == 1);
    qnet_caller_cancel(caller, &call.request);
    WAIT_FOR(over == 1);
    cr_assert_eq(call.err, Q_STOPPING);
    qnet_caller_cancel(caller, &call.request);
    net_release(&net, 1, true);

    net.holds = false;
    net_submit_number(caller, &call, 1, 0, &over);
    WAIT_FOR(over == 2);
    cr_assert_eq(call.err, Q_OK);
    qnet_caller_cancel(caller, &call.request);
    net_check_echo(caller, "unharmed");
    qnet_caller_free(caller);
    net_server_stop(&net);

    const char *nowhere = net_ipc_url("nowhere");
    cr_assert_eq(qnet_caller_new(&(struct qnet_caller_options){ .url = nowhere }, &caller), Q_OK);
    net_submit_number(caller, &call, 2, 0, &over);
    qnet_caller_cancel(caller, &call.request);
    WAIT_FOR(over == 3);
    cr_assert_eq(call.err, Q_STOPPING);
    qnet_caller_free(caller);
}

struct insistent {
    struct qnet_request request;
    struct qnet_caller *caller;
    atomic_uint *over;
    enum q_err err;
    enum q_err again;
};

static void
submit_again(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct insistent *insistent = request->context;
    qnet_buffer_free(answer);
    insistent->err = err;
    struct qnet_buffer *buffer = net_text("again");
    request->buffer = buffer;
    insistent->again = qnet_caller_submit(insistent->caller, request);
    if (insistent->again != Q_OK) qnet_buffer_free(buffer);
    atomic_fetch_add(insistent->over, 1);
}

/* Freeing a caller ends all its calls first, and takes no new ones from their ends. */
Test(net_caller, free_ends_all)
{
    enum {
        CALLS = 500
    };
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct insistent *calls = calloc(CALLS, sizeof(*calls));

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        calls[i].caller = caller;
        calls[i].over = &over;
        calls[i].request.buffer = net_text("once");
        calls[i].request.done = submit_again;
        calls[i].request.context = &calls[i];
        cr_assert_eq(qnet_caller_submit(caller, &calls[i].request), Q_OK);
    }
    qnet_caller_free(caller);
    cr_assert_eq(over, CALLS);
    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert_eq(calls[i].err, Q_STOPPING);
        cr_assert_eq(calls[i].again, Q_STOPPING);
    }
    free(calls);
    net_server_stop(&net);
}

struct states {
    atomic_uint made;
    atomic_uint lost;
    atomic_uint wrong; /* not the opposite of the one before */
    bool connected;
};

static void
on_state(void *context, bool connected)
{
    struct states *states = context;
    if (states->connected == connected) atomic_fetch_add(&states->wrong, 1);
    states->connected = connected;
    atomic_fetch_add(connected ? &states->made : &states->lost, 1);
}

/* Each connection made and lost is told, in turn, and a lost one is made again soon. */
Test(net_caller, on_state)
{
    const char *url = net_ipc_url("states");
    struct states states = { 0 };
    struct qnet_caller *caller;
    struct qnet_caller_options options = {
        .url = url,
        .reconnect_max_ms = 100,
        .context = &states,
        .on_state = on_state,
    };
    cr_assert_eq(qnet_caller_new(&options, &caller), Q_OK);
    for (unsigned i = 1; i <= 5; i++) {
        struct net_server net;
        net_server_start(&net, url, NULL);
        uint64_t begun_ms = net_now_ms();
        WAIT_FOR(states.made == i);
        cr_assert_leq(net_now_ms() - begun_ms, 1000);
        cr_assert(qnet_caller_is_connected(caller));
        net_check_echo(caller, "here");
        net_server_stop(&net);
        WAIT_FOR(states.lost == i);
        cr_assert_not(qnet_caller_is_connected(caller));
    }
    qnet_caller_free(caller);
    cr_assert_eq(states.wrong, 0);
}

struct crowd {
    struct qnet_caller *caller;
    atomic_uint ended_twice;
    atomic_uint foreign_answers;
    atomic_uint unexpected;
};

static void *
submit_and_cancel(void *context)
{
    enum {
        ROUNDS = 60,
        CALLS = 16
    };
    struct crowd *crowd = context;
    unsigned seed = (unsigned)(uintptr_t)&seed;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct net_call calls[CALLS];
        atomic_uint over = 0;
        for (unsigned i = 0; i < CALLS; i++) {
            uint64_t number = (uint64_t)rand_r(&seed) << 32 | i;
            net_submit_number(crowd->caller, &calls[i], number, 1 + i * 8, &over);
        }
        for (unsigned i = 0; i < CALLS; i += 3) {
            qnet_caller_cancel(crowd->caller, &calls[i].request);
        }
        WAIT_FOR(over == CALLS);
        for (unsigned i = 0; i < CALLS; i++) {
            if (calls[i].ends != 1) atomic_fetch_add(&crowd->ended_twice, 1);
            bool is_ok = calls[i].err == Q_OK;
            if (is_ok && calls[i].answered != calls[i].number) {
                atomic_fetch_add(&crowd->foreign_answers, 1);
            }
            if (!is_ok && calls[i].err != Q_STOPPING && calls[i].err != Q_TIMED_OUT &&
                calls[i].err != Q_UNAVAILABLE && calls[i].err != Q_E_CONNECTION)
            {
                atomic_fetch_add(&crowd->unexpected, 1);
            }
        }
    }
    return NULL;
}

/* Many threads, short time-outs, cancellations and a server that comes and goes: every call ends
 * once, and never with the answer of another. */
Test(net_caller, crowd)
{
    enum {
        THREADS = 4,
        RESTARTS = 10
    };
    const char *url = net_ipc_url("crowd");
    struct crowd crowd = { 0 };
    struct qnet_caller_options options = { .url = url, .reconnect_max_ms = 20 };
    cr_assert_eq(qnet_caller_new(&options, &crowd.caller), Q_OK);
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, submit_and_cancel, &crowd), 0);
    }
    for (unsigned i = 0; i < RESTARTS; i++) {
        struct net_server net;
        net_server_start(&net, url, NULL);
        usleep(100 * 1000);
        net.holds = true;
        usleep(20 * 1000);
        net_server_stop(&net);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    qnet_caller_free(crowd.caller);
    cr_assert_eq(crowd.ended_twice, 0);
    cr_assert_eq(crowd.foreign_answers, 0);
    cr_assert_eq(crowd.unexpected, 0);
}

/* A caller that is freed while answers come does not close between two reads of one: nng would wait for that
 * connection for ever. What was under way is over at once. */
Test(net_caller, freed_under_load, .timeout = 120)
{
    enum {
        ROUNDS = 50,
        CALLS = 2000
    };
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct net_call *calls = calloc(CALLS, sizeof(*calls));
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
        atomic_uint over = 0;
        for (unsigned i = 0; i < CALLS; i++) {
            net_submit_number(caller, &calls[i], i, 0, &over);
        }
        qnet_caller_free(caller);
        cr_assert_eq(over, CALLS);
        for (unsigned i = 0; i < CALLS; i++) {
            cr_assert(calls[i].err == Q_OK || calls[i].err == Q_STOPPING);
            cr_assert_eq(calls[i].ends, 1);
        }
    }
    net_server_stop(&net);
    free(calls);
}
