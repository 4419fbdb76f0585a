/*
 * test_net_endpoint.c: urls that can't be used are refused in words that help.
 */
#include "test_net_common.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static void
ignore_call(void *context, struct qnet_call *call)
{
    (void)context;
    qnet_call_drop(call);
}

static enum q_err
listen_on(const char *url, struct qnet_server **ret_server)
{
    return qnet_server_new(
        &(struct qnet_server_options){ .url = url, .on_call = ignore_call }, ret_server);
}

static bool
hint_has_example(void)
{
    return strstr(q_fault_last()->hint, "tcp://127.0.0.1:20880") != NULL;
}

/* A url that means nothing is Q_INVALID: the fault names it, the mistake, and a good one. */
Test(net_endpoint, bad_urls)
{
    static const struct {
        const char *url;
        const char *what;
        bool only_dial; /* fine to listen on */
    } bad[] = {
        { "", "not a url", false },
        { "127.0.0.1:20880", "not a url", false },
        { "tcp:/127.0.0.1:20880", "not a url", false },
        { "http://127.0.0.1:80", "unknown transport 'http'", false },
        { "://x", "unknown transport ''", false },
        { "tcp://", "no port in the url", false },
        { "tcp://127.0.0.1", "no port in the url", false },
        { "tcp://127.0.0.1:", "not a url", false },
        { "tcp://127.0.0.1:65536", "'65536' is not a port", false },
        { "tcp://127.0.0.1:-1", "'-1' is not a port", false },
        { "tcp://127.0.0.1:http", "'http' is not a port", false },
        { "tcp://127.0.0.1:20880/path", "'/path' after the port", false },
        { "tcp://me@127.0.0.1:20880", "a user name in the url", false },
        { "tcp://127.0.0.1:0", "'0' is not a port", true },
        { "tcp://:20880", "no host in the url", true },
        { "ipc://", "no path in the url", false },
        { "inproc://", "no name in the url", false },
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct qnet_server *server;
        struct qnet_caller *caller;
        cr_assert_eq(
            qnet_caller_new(&(struct qnet_caller_options){ .url = bad[i].url }, &caller), Q_INVALID,
            "%s", bad[i].url);
        cr_assert_str_eq(q_fault_last()->path, bad[i].url);
        cr_assert_str_eq(q_fault_last()->what, bad[i].what);
        cr_assert(hint_has_example());
        if (bad[i].only_dial) continue;
        cr_assert_eq(listen_on(bad[i].url, &server), Q_INVALID, "%s", bad[i].url);
        cr_assert_str_eq(q_fault_last()->path, bad[i].url);
        cr_assert_str_eq(q_fault_last()->what, bad[i].what);
        cr_assert(hint_has_example());
    }
}

/* A path has to fit into the address of a socket. */
Test(net_endpoint, long_path)
{
    struct qnet_server *server;
    const char *url = q_text("ipc:///tmp/%0103d", 0);
    cr_assert_eq(listen_on(url, &server), Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "the path is longer than 107 bytes");
    url = q_text("ipc:///tmp/%0102d", 0);
    cr_assert_eq(listen_on(url, &server), Q_OK);
    qnet_server_free(server);
}

/* Two can't listen at one address: the second is told which one, and how to find the first. */
Test(net_endpoint, address_in_use)
{
    const char *urls[] = { "tcp://127.0.0.1:0", net_ipc_url("in-use"), "inproc://in-use" };
    for (unsigned i = 0; i < 3; i++) {
        struct qnet_server *first;
        struct qnet_server *second;
        cr_assert_eq(listen_on(urls[i], &first), Q_OK);
        const char *url = qnet_server_url(first);
        cr_assert_eq(listen_on(url, &second), Q_E_ADDRESS_IN_USE);
        cr_assert_str_eq(q_fault_last()->path, url);
        cr_assert_str_eq(q_fault_last()->what, "something listens there already");
        if (i == 0) {
            cr_assert(strstr(q_fault_last()->hint, strrchr(url, ':')) != NULL);
            cr_assert(strstr(q_fault_last()->hint, "ss -ltnp") != NULL);
        }
        qnet_server_free(first);
        cr_assert_eq(listen_on(urls[i], &second), Q_OK);
        qnet_server_free(second);
    }
}

/* Port 0 means any: the server's url says which it became, and can be connected to. */
Test(net_endpoint, any_port)
{
    struct net_server net;
    net_server_start(&net, "tcp://127.0.0.1:0", NULL);
    const char *url = qnet_server_url(net.server);
    cr_assert_eq(strncmp(url, "tcp://127.0.0.1:", 16), 0);
    cr_assert_gt(atoi(url + 16), 0);
    struct qnet_caller *caller = net_connect(url);
    net_check_echo(caller, "there");
    qnet_caller_free(caller);
    net_server_stop(&net);
}

/* An address of another machine, and a directory that is not there, are said to be that. */
Test(net_endpoint, elsewhere)
{
    struct qnet_server *server;
    cr_assert_eq(listen_on("tcp://192.0.2.1:20880", &server), Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "not an address of this machine");
    cr_assert_eq(listen_on("ipc:///tmp/qmq-no-such-directory/socket", &server), Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "the directory of the socket does not exist");
}

/* Where this user may not listen, the fault says so. */
Test(net_endpoint, permission)
{
    char directory[] = "/tmp/qmq-test-XXXXXX";
    cr_assert_not_null(mkdtemp(directory));
    cr_assert_eq(chmod(directory, 0500), 0);
    uid_t me = geteuid();
    enum {
        NOBODY = 65534
    };
    if (me == 0) cr_assert_eq(seteuid(NOBODY), 0);

    struct qnet_server *server;
    const char *url = q_text("ipc://%s/socket", directory);
    cr_assert_eq(listen_on(url, &server), Q_E_PERMISSION);
    cr_assert_str_eq(q_fault_last()->path, url);
    cr_assert_str_eq(q_fault_last()->what, "not allowed to listen there");
    cr_assert(strstr(q_fault_last()->hint, "directory") != NULL);

    if (me == 0) cr_assert_eq(seteuid(0), 0);
    cr_assert_eq(rmdir(directory), 0);
}

/* A socket that a killed process left behind is no obstacle; a file of somebody's is not touched. */
Test(net_endpoint, what_lies_at_an_ipc_path)
{
    const char *url = net_ipc_url("left-behind");
    const char *path = url + strlen("ipc://");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);

    struct qnet_server *server;
    cr_assert_eq(listen_on(url, &server), Q_OK);
    qnet_server_free(server);
    cr_assert_neq(access(path, F_OK), 0);

    FILE *file = fopen(path, "we");
    cr_assert_not_null(file);
    fclose(file);
    cr_assert_eq(listen_on(url, &server), Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "something that is not a socket lies at the path");
    cr_assert_eq(access(path, F_OK), 0);
    cr_assert_eq(unlink(path), 0);
}
