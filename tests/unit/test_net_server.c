/*
 * test_net_server.c: what a server promises to the one who answers calls. This executable has
 * net's keep_listening.c compiled in, as servers have.
 */
#include "test_net_common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

static const char *any_port = "tcp://127.0.0.1:0";

/* Bytes come back as they were sent, on every transport, from none to a megabyte. */
Test(net_server, round_trip)
{
    const char *urls[] = { any_port, net_ipc_url("round-trip"), "inproc://round-trip" };
    size_t sizes[] = { 0, 1, 1000, 1024, 1024 * 1024 };

    for (unsigned i = 0; i < 3; i++) {
        struct net_server net;
        net_server_start(&net, urls[i], NULL);
        struct qnet_caller *caller = net_connect(qnet_server_url(net.server));

        for (unsigned j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            struct qnet_buffer *buffer;
            struct qnet_buffer *answer;
            cr_assert_eq(qnet_buffer_new(sizes[j], &buffer), Q_OK);
            for (size_t at = 0; at < sizes[j]; at++) {
                qnet_buffer_data(buffer)[at] = (uint8_t)(at * 31 >> 3);
            }
            cr_assert_eq(qnet_caller_call(caller, buffer, NET_PATIENCE_MS, &answer), Q_OK);
            cr_assert_eq(qnet_buffer_size(answer), sizes[j]);
            for (size_t at = 0; at < sizes[j]; at++) {
                cr_assert_eq(qnet_buffer_data(answer)[at], (uint8_t)(at * 31 >> 3));
            }
            qnet_buffer_free(answer);
        }

        qnet_caller_free(caller);
        net_server_stop(&net);
    }
}

/* Calls of one connection arrive in the order in which they were sent, 10,000 at once. */
Test(net_server, order_is_kept)
{
    enum {
        CALLS = 10000
    };
    const char *urls[] = { any_port, net_ipc_url("order") };
    struct net_call *calls = calloc(CALLS, sizeof(*calls));

    for (unsigned i = 0; i < 2; i++) {
        struct net_server net;
        net_server_start(&net, urls[i], NULL);
        struct qnet_caller *caller = net_connect(qnet_server_url(net.server));

        atomic_uint over = 0;
        for (unsigned j = 0; j < CALLS; j++) {
            net_submit_number(caller, &calls[j], j, 0, &over);
        }
        WAIT_FOR(over == CALLS);
        cr_assert_eq(net.disordered, 0);
        for (unsigned j = 0; j < CALLS; j++) {
            cr_assert_eq(calls[j].err, Q_OK);
            cr_assert_eq(calls[j].answered, j);
        }

        qnet_caller_free(caller);
        net_server_stop(&net);
    }
    free(calls);
}

/* A call may be kept and answered much later; what is kept does not stand in the way of others. */
Test(net_server, parked_calls)
{
    enum {
        PARKED = 1000
    };
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct net_call *calls = calloc(PARKED, sizeof(*calls));

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < PARKED; i++) {
        net_submit_number(caller, &calls[i], i, 0, &over);
    }
    WAIT_FOR(net.came == PARKED);
    net.holds = false;
    net_check_echo(caller, "meanwhile");
    cr_assert_eq(over, 0);
    WAIT_FOR(net_calls_held(&net) == PARKED);

    net_release(&net, PARKED, true);
    WAIT_FOR(over == PARKED);
    for (unsigned i = 0; i < PARKED; i++) {
        cr_assert_eq(calls[i].answered, i);
    }
    WAIT_FOR(net_calls_held(&net) == 0);

    free(calls);
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* When a client goes away, the holder of its calls is told so, once, and of no other's. */
Test(net_server, on_gone)
{
    enum {
        PARKED = 100
    };
    const char *urls[] = { any_port, net_ipc_url("gone"), "inproc://gone" };

    for (unsigned i = 0; i < 3; i++) {
        struct net_server net;
        net_server_start(&net, urls[i], NULL);
        struct qnet_caller *stays = net_connect(qnet_server_url(net.server));
        struct qnet_caller *leaves = net_connect(qnet_server_url(net.server));
        struct net_call calls[PARKED];
        struct net_call other;

        net.holds = true;
        atomic_uint over = 0;
        atomic_uint other_over = 0;
        net_submit_number(stays, &other, 0, 0, &other_over);
        WAIT_FOR(net.came == 1);
        uint64_t other_connection = qnet_call_connection(net.held[0]);
        for (unsigned j = 0; j < PARKED; j++) {
            net_submit_number(leaves, &calls[j], j, 0, &over);
        }
        WAIT_FOR(net.came == 1 + PARKED);

        qnet_caller_free(leaves);
        cr_assert_eq(over, PARKED);
        WAIT_FOR(net.gone == 1);
        cr_assert_neq(net.gone_connection, other_connection);
        WAIT_FOR(net_calls_held(&net) == 1);

        net_release(&net, 1, true);
        WAIT_FOR(other_over == 1);
        cr_assert_eq(other.err, Q_OK);
        cr_assert_eq(net.gone, 1);
        qnet_caller_free(stays);
        net_server_stop(&net);
        cr_assert_eq(net.gone, 2);
    }
}

/* A connection that has as many calls here as it may is answered by on_busy; another is not. */
Test(net_server, connection_calls_max)
{
    enum {
        MOST = 10,
        MORE = 7
    };
    struct net_server net;
    net_server_start(
        &net, any_port,
        &(struct qnet_server_options){ .connection_calls_max = MOST, .on_busy = net_on_busy });
    struct qnet_caller *greedy = net_connect(qnet_server_url(net.server));
    struct qnet_caller *modest = net_connect(qnet_server_url(net.server));
    struct net_call calls[MOST];

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < MOST; i++) {
        net_submit_number(greedy, &calls[i], i, 0, &over);
    }
    WAIT_FOR(net.came == MOST);
    for (unsigned i = 0; i < MORE; i++) {
        struct qnet_buffer *answer;
        cr_assert_eq(qnet_caller_call(greedy, net_text("?"), NET_PATIENCE_MS, &answer), Q_OK);
        cr_assert(net_is_text(answer, "busy"));
        qnet_buffer_free(answer);
    }
    net.holds = false;
    net_check_echo(modest, "still served");

    struct qnet_server_stats stats;
    qnet_server_stats(net.server, &stats);
    cr_assert_eq(stats.busy, MORE);

    net_release(&net, MOST, true);
    WAIT_FOR(over == MOST);
    WAIT_FOR(net_calls_held(&net) == 0);
    net_check_echo(greedy, "served again");
    qnet_caller_free(greedy);
    qnet_caller_free(modest);
    net_server_stop(&net);
}

/* Without on_busy such a connection is ended, and its calls with it. */
Test(net_server, connection_calls_max_without_on_busy)
{
    struct net_server net;
    net_server_start(&net, any_port, &(struct qnet_server_options){ .connection_calls_max = 1 });
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct net_call calls[2];

    net.holds = true;
    atomic_uint over = 0;
    net_submit_number(caller, &calls[0], 0, 0, &over);
    net_submit_number(caller, &calls[1], 1, 0, &over);
    WAIT_FOR(over == 2);
    cr_assert_eq(calls[0].err, Q_E_CONNECTION);
    cr_assert_eq(calls[1].err, Q_E_CONNECTION);
    WAIT_FOR(net.gone == 1);

    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* At calls_max the server stops reading; nothing is lost and the order stays. */
Test(net_server, calls_max)
{
    enum {
        MOST = 4,
        CALLS = 500
    };
    struct net_server net;
    net_server_start(&net, any_port, &(struct qnet_server_options){ .calls_max = MOST });
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct net_call *calls = calloc(CALLS, sizeof(*calls));

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        net_submit_number(caller, &calls[i], i, 0, &over);
    }
    WAIT_FOR(net.came == MOST);
    usleep(50 * 1000);
    cr_assert_eq(net.came, MOST);

    for (unsigned i = 0; i < CALLS; i++) {
        WAIT_FOR(net.came > i);
        net_release(&net, 1, true);
        cr_assert_leq(net.came, i + 1 + MOST);
    }
    WAIT_FOR(over == CALLS);
    cr_assert_eq(net.disordered, 0);
    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert_eq(calls[i].err, Q_OK);
        cr_assert_eq(calls[i].answered, i);
    }

    free(calls);
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* Beyond connections_max a connection is refused; those that are there don't notice. */
Test(net_server, connections_max)
{
    struct net_server net;
    net_server_start(&net, any_port, &(struct qnet_server_options){ .connections_max = 2 });
    struct qnet_caller *first = net_connect(qnet_server_url(net.server));
    struct qnet_caller *second = net_connect(qnet_server_url(net.server));
    net_check_echo(first, "one");
    net_check_echo(second, "two");

    struct qnet_caller *third;
    struct qnet_caller_options options = { .url = qnet_server_url(net.server) };
    cr_assert_eq(qnet_caller_new(&options, &third), Q_OK);
    struct qnet_buffer *answer;
    enum q_err err = qnet_caller_call(third, net_text("three"), 200, &answer);
    cr_assert(err == Q_E_CONNECTION || err == Q_UNAVAILABLE, "%s", q_err_name(err));
    net_check_echo(first, "one");

    qnet_caller_free(first);
    for (int i = 0; i < 100 && err != Q_OK; i++) {
        err = qnet_caller_call(third, net_text("three"), 200, &answer);
    }
    cr_assert_eq(err, Q_OK);
    qnet_buffer_free(answer);

    struct qnet_server_stats stats;
    qnet_server_stats(net.server, &stats);
    cr_assert_eq(stats.connections_now, 2);
    qnet_caller_free(second);
    qnet_caller_free(third);
    net_server_stop(&net);
}

/* A message of message_bytes_max passes; one byte more ends its connection and no other. */
Test(net_server, too_long_message)
{
    enum {
        MOST = 100000
    };
    const char *urls[] = { any_port, net_ipc_url("long"), "inproc://long" };

    for (unsigned i = 0; i < 3; i++) {
        struct net_server net;
        net_server_start(&net, urls[i], &(struct qnet_server_options){ .message_bytes_max = MOST });
        struct qnet_caller *good = net_connect(qnet_server_url(net.server));
        struct qnet_caller *bad = net_connect(qnet_server_url(net.server));

        net.holds = true;
        atomic_uint over = 0;
        struct net_call parked;
        net_submit_number(good, &parked, 0, 0, &over);
        WAIT_FOR(net.came == 1);
        net.holds = false;

        struct qnet_buffer *buffer;
        struct qnet_buffer *answer;
        cr_assert_eq(qnet_buffer_new(MOST, &buffer), Q_OK);
        cr_assert_eq(qnet_caller_call(bad, buffer, NET_PATIENCE_MS, &answer), Q_OK);
        qnet_buffer_free(answer);
        cr_assert_eq(qnet_buffer_new(MOST + 1, &buffer), Q_OK);
        cr_assert_eq(qnet_caller_call(bad, buffer, NET_PATIENCE_MS, &answer), Q_E_CONNECTION);

        cr_assert_eq(over, 0);
        net_release(&net, 1, true);
        WAIT_FOR(over == 1);
        cr_assert_eq(parked.err, Q_OK);
        net_check_echo(bad, "connected again");
        qnet_caller_free(good);
        qnet_caller_free(bad);
        net_server_stop(&net);
    }
}

static int
connect_to(const char *url)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void
send_garbage(const char *url, const void *bytes, size_t size)
{
    int fd = connect_to(url);
    cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
    usleep(20 * 1000);
    close(fd);
}

/* Strangers that speak another protocol, lie about lengths or stop in between do no harm. */
Test(net_server, garbage)
{
    static const struct {
        const char *bytes;
        size_t size;
    } garbage[] = {
        { "GET / HTTP/1.1\r\n\r\n", 18 },
        { "\0SP\0\0\x50\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 16 },   /* a length beyond all */
        { "\0SP\0\0\x30\0\0\0\0\0\0\0\0\0\4\x80\0\0\1", 20 },         /* as a request */
        { "\0SP\0\0\x30\0\0\0\0\0\0\0\0\0\2ab", 18 },                 /* no request id */
        { "\0SP\0\0\x30\0\0\0\0\0\0\0\0\0\0", 16 },                   /* no bytes at all */
        { "\0SP\0\0\x30\0\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\0", 24 }, /* an id without end */
        { "\0SP\0\0\x30\0\0\0\0\0\0\0\0\1\0\x80\0\0\1half", 24 },     /* stops in between */
        { "\0SP\0\0\x30\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x80\0\0", 19 }, /* a negative length */
        { "\0SP", 3 },
    };
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));

    for (unsigned i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        send_garbage(qnet_server_url(net.server), garbage[i].bytes, garbage[i].size);
        net_check_echo(caller, "unharmed");
    }
    struct qnet_caller *later = net_connect(qnet_server_url(net.server));
    net_check_echo(later, "unharmed");

    qnet_caller_free(caller);
    qnet_caller_free(later);
    net_server_stop(&net);
}

/* A stranger that ends and resets its connection before it was accepted leaves the door open. */
Test(net_server, reset_before_accept)
{
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    const struct linger reset = { .l_onoff = 1 };

    for (unsigned i = 0; i < 50; i++) {
        int fd = connect_to(qnet_server_url(net.server));
        if (i % 2 == 0) cr_assert_eq(shutdown(fd, SHUT_WR), 0);
        cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
        close(fd);
    }
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    net_check_echo(caller, "still open");
    qnet_caller_free(caller);
    net_server_stop(&net);
}

struct aligned {
    struct qnet_server *server;
    atomic_uint wrong;
    atomic_uint used_slots;
};

static void
check_request(void *context, struct qnet_call *call)
{
    struct aligned *aligned = context;
    if ((uintptr_t)qnet_call_request(call).data % 16 != 4) atomic_fetch_add(&aligned->wrong, 1);
    for (unsigned i = 0; i < 2; i++) {
        if (*qnet_call_slot(call, i) != NULL) atomic_fetch_add(&aligned->used_slots, 1);
        *qnet_call_slot(call, i) = aligned;
    }
    qnet_call_request_data(call)[0] = 'x';
    qnet_call_answer(call, qnet_call_take_request(call));
}

/* A request lies at 4 mod 16 whatever its length, may be written to, and its slots are empty. */
Test(net_server, request_memory)
{
    const char *urls[] = { any_port, net_ipc_url("memory"), "inproc://memory" };
    size_t sizes[] = { 1, 12, 60, 1020, 1024, 4092, 4096, 65532, 65536, 1000000 };

    for (unsigned i = 0; i < 3; i++) {
        struct aligned aligned = { 0 };
        struct qnet_server_options options = {
            .url = urls[i],
            .context = &aligned,
            .on_call = check_request,
        };
        cr_assert_eq(qnet_server_new(&options, &aligned.server), Q_OK);
        struct qnet_caller *caller = net_connect(qnet_server_url(aligned.server));
        for (unsigned j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            struct qnet_buffer *buffer;
            struct qnet_buffer *answer;
            cr_assert_eq(qnet_buffer_new(sizes[j], &buffer), Q_OK);
            cr_assert_eq(qnet_caller_call(caller, buffer, NET_PATIENCE_MS, &answer), Q_OK);
            cr_assert_eq(qnet_buffer_data(answer)[0], 'x');
            qnet_buffer_free(answer);
        }
        cr_assert_eq(aligned.wrong, 0);
        cr_assert_eq(aligned.used_slots, 0);
        qnet_caller_free(caller);
        qnet_server_free(aligned.server);
    }
}

/* What was answered before the server is freed still leaves. */
Test(net_server, last_answers_leave)
{
    enum {
        CALLS = 64,
        BYTES = 256 * 1024
    };
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    struct net_call calls[CALLS];

    net.holds = true;
    atomic_uint over = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        struct qnet_buffer *buffer;
        cr_assert_eq(qnet_buffer_new(BYTES, &buffer), Q_OK);
        net_submit(caller, &calls[i], buffer, 0, &over);
    }
    WAIT_FOR(net.came == CALLS);
    net_release(&net, CALLS - 1, true);
    net_release(&net, 1, false);
    net_server_stop(&net);

    WAIT_FOR(over == CALLS);
    unsigned answered = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        answered += calls[i].err == Q_OK ? 1 : 0;
    }
    /* The last of them may have been on its way through the socket when it was closed. */
    cr_assert_geq(answered, CALLS - 2, "%u of %d", answered, CALLS - 1);
    qnet_caller_free(caller);
}

/* The figures add up. */
Test(net_server, stats)
{
    struct net_server net;
    net_server_start(&net, any_port, NULL);
    struct qnet_caller *caller = net_connect(qnet_server_url(net.server));
    for (unsigned i = 0; i < 100; i++) {
        net_check_echo(caller, "0123456789");
    }

    struct qnet_server_stats stats;
    WAIT_FOR(net_calls_held(&net) == 0);
    qnet_server_stats(net.server, &stats);
    cr_assert_eq(stats.calls, 100);
    cr_assert_eq(stats.answers, 100);
    cr_assert_eq(stats.bytes_in, 1000);
    cr_assert_eq(stats.bytes_out, 1000);
    cr_assert_eq(stats.busy, 0);
    cr_assert_eq(stats.connections, 1);
    cr_assert_eq(stats.connections_now, 1);
    qnet_caller_free(caller);
    WAIT_FOR((qnet_server_stats(net.server, &stats), stats.connections_now == 0));
    net_server_stop(&net);
}
