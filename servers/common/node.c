/*
 * node.c: start, readiness, stop.
 */
#include "common/node.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/clock.h>

#include "common/banner.h"
#include "common/exit.h"
#include "common/home.h"
#include "common/log.h"
#include "common/options.h"
#include "common/ready_file.h"
#include "common/url.h"

enum {
    FILES_WANTED = 65536,
    NAME_MAX_SIZE = 64,
};

struct running_role {
    const struct srv_role *role;
    void *state;
};

struct srv_node {
    const struct srv_program *program;
    struct srv_options options;
    struct srv_home home;
    uint64_t start_ns;
    char broker_group[NAME_MAX_SIZE];
    char roles_text[NAME_MAX_SIZE];
    char program_text[NAME_MAX_SIZE];
    char url[SRV_URL_MAX];
    char one_way_url[SRV_URL_MAX];
    char meta_url[SRV_URL_MAX];
    struct srv_node_view view;
    struct running_role running[SRV_ROLES_MAX];
    size_t running_count;
    struct srv_banner banner;
    bool has_ready_file;

    /* From roles' threads to the main thread. */
    int event_file;
    pthread_mutex_t lock;
    size_t ready_count;
    bool has_failed;
    struct q_fault fault;
};

static void tame_memory(void);
static void raise_file_limit(void);
static enum q_err start(struct srv_node *node);
static enum q_err start_role(struct srv_node *node, const struct srv_role *role);
static enum q_err probe_one_way(const struct srv_node *node, const struct srv_role *role);
static unsigned one_way_port(const struct srv_node *node, const struct srv_role *role);
static void prepare_view(struct srv_node *node);
static int open_signals(void);
static enum q_err run(struct srv_node *node, int signal_file);
static void become_ready(struct srv_node *node);
static enum q_err stop(struct srv_node *node);
static void stop_at_once_when_asked_again(void);
static int tell_failure(const struct srv_node *node, const struct q_fault *fault);
static void signal_main(struct srv_node *node);

int
srv_node_main(const struct srv_program *program, int argc, char **argv)
{
    struct srv_node node = {
        .program = program,
        .home = { .marker_file = -1 },
        .start_ns = q_clock_monotonic_ns(q_clock_system()),
        .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    enum q_err err = srv_options_parse(program, argc, argv, &node.options);
    if (err == Q_END) return SRV_EXIT_OK;
    if (err != Q_OK) {
        srv_say("%s: %s", program->name, q_fault_last()->what);
        return SRV_EXIT_USAGE;
    }
    srv_log_set_level(node.options.log_level);
    tame_memory();
    raise_file_limit();

    /* Before any thread is made, so that all of them leave signals to the main thread. */
    int signal_file = open_signals();
    node.event_file = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    Q_ASSERT(signal_file >= 0);
    Q_ASSERT(node.event_file >= 0);

    int code = SRV_EXIT_OK;
    err = start(&node);
    if (err == Q_OK) err = run(&node, signal_file);
    if (err != Q_OK) code = tell_failure(&node, q_fault_last());

    /* One failure, one line: what a stop says after it is a consequence. */
    stop_at_once_when_asked_again();
    err = stop(&node);
    if (code != SRV_EXIT_OK) return code;
    if (err != Q_OK) return tell_failure(&node, q_fault_last());
    srv_log(SRV_NODE_STOPPED, "node=%s", node.home.node_id);
    return SRV_EXIT_OK;
}

/*
 * Few arenas, since what one thread frees is mostly what another one took. Requests and answers up
 * to the size of a message come from the heap: fresh pages from the kernel for each would cost half
 * of the throughput of large ones. What a burst leaves beyond the trim threshold is given back.
 */
static void
tame_memory(void)
{
    (void)mallopt(M_ARENA_MAX, 4);
    (void)mallopt(M_MMAP_THRESHOLD, 8 * 1024 * 1024);
    (void)mallopt(M_TRIM_THRESHOLD, 8 * 1024 * 1024);
}

/* The soft limit is meant for programs that use select(). */
static void
raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    if (limit.rlim_cur >= FILES_WANTED) return;
    limit.rlim_cur = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static enum q_err
start(struct srv_node *node)
{
    const struct srv_options *options = &node->options;

    Q_TRY(srv_home_look(options->directory, &node->home));
    /* After the lock: it may be the file of a node that runs. */
    Q_TRY(srv_ready_file_clear(options->ready_file));
    for (size_t i = 0; i < options->role_count && options->port_base; i++) {
        unsigned port = (unsigned)options->port_base + options->roles[i]->port_offset;
        Q_TRY(srv_url_probe(options->listen, port));
        Q_TRY(probe_one_way(node, options->roles[i]));
    }
    Q_TRY(srv_home_make(&node->home));
    prepare_view(node);
    srv_log(
        SRV_NODE_STARTING, "program=%s roles=%s dir=%s node=%s process=%d",
        srv_quote(node->program_text), node->roles_text, srv_quote(node->home.path),
        node->home.node_id, (int)getpid());

    for (size_t i = 0; i < options->role_count; i++)
        Q_TRY(start_role(node, options->roles[i]));
    return Q_OK;
}

/* Nobody asked for this port: a node that has been fine without it may go on so. */
static enum q_err
probe_one_way(const struct srv_node *node, const struct srv_role *role)
{
    const struct srv_options *options = &node->options;
    unsigned port = one_way_port(node, role);
    if (!port || srv_url_probe(options->listen, port) == Q_OK) return Q_OK;
    struct q_fault fault = *q_fault_last();
    char url[SRV_URL_MAX];
    srv_url_make(options->listen, port, url, sizeof(url));
    return Q_FAIL(
        fault.err, .path = url, .sys = fault.sys_errno, .what = "can't listen for one-way messages",
        .hint =
            "--one-way tcp://IP:PORT for another port, or --one-way none to take no such messages");
}

/* Of the port base; 0: any, its own url's, or none. */
static unsigned
one_way_port(const struct srv_node *node, const struct srv_role *role)
{
    const struct srv_options *options = &node->options;
    if (!role->one_way_port_offset || options->one_way || !options->port_base) return 0;
    return (unsigned)options->port_base + role->one_way_port_offset;
}

static void
prepare_view(struct srv_node *node)
{
    const struct srv_options *options = &node->options;

    (void)snprintf(
        node->program_text, sizeof(node->program_text), "%s %s", node->program->name, QMQ_VERSION);
    for (size_t i = 0; i < options->role_count; i++) {
        size_t at = strlen(node->roles_text);
        (void)snprintf(
            node->roles_text + at, sizeof(node->roles_text) - at, "%s%s", i > 0 ? "," : "",
            options->roles[i]->name);
    }
    /* Names a store for good, so it must not be another one's by accident. */
    (void)snprintf(node->broker_group, sizeof(node->broker_group), "g-%.8s", node->home.node_id);
    if (options->meta_url)
        (void)snprintf(node->meta_url, sizeof(node->meta_url), "%s", options->meta_url);
    else
        srv_url_make(
            "127.0.0.1", (unsigned)options->port_base, node->meta_url, sizeof(node->meta_url));

    node->view = (struct srv_node_view){
        .node_id = node->home.node_id,
        .directory = node->home.path,
        .url = node->url,
        .meta_url = node->meta_url,
        .broker_group = options->broker_group ? options->broker_group : node->broker_group,
        .cluster = options->cluster,
        .advertise = options->advertise,
        .program = node->program_text,
        .version = QMQ_VERSION,
        .roles = node->roles_text,
        .storage = options->storage,
    };
}

static enum q_err
start_role(struct srv_node *node, const struct srv_role *role)
{
    const struct srv_options *options = &node->options;
    unsigned port = options->port_base ? (unsigned)options->port_base + role->port_offset : 0;
    srv_url_make(options->listen, port, node->url, sizeof(node->url));
    srv_url_make(
        options->listen, one_way_port(node, role), node->one_way_url, sizeof(node->one_way_url));
    node->view.one_way_url = options->one_way ? options->one_way : node->one_way_url;
    bool is_none = options->one_way && strcmp(options->one_way, "none") == 0;
    if (is_none || !role->one_way_port_offset) node->view.one_way_url = NULL;

    void *state;
    Q_TRY(role->start(node, &state));
    node->running[node->running_count++] = (struct running_role){ role, state };

    /* Roles that start after meta register at it, under its real port. */
    if (strcmp(role->name, "meta") == 0 && !options->meta_url)
        srv_url_dial(role->url(state), NULL, node->meta_url, sizeof(node->meta_url));
    return Q_OK;
}

const struct srv_node_view *
srv_node_view(const struct srv_node *node)
{
    return &node->view;
}

static int
open_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    Q_ASSERT(pthread_sigmask(SIG_BLOCK, &signals, NULL) == 0);
    /* Both are answered by system calls, too, where somebody looks at the result. */
    Q_ASSERT(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    Q_ASSERT(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Until a signal comes (Q_OK) or a role fails. */
static enum q_err
run(struct srv_node *node, int signal_file)
{
    bool is_ready = false;
    struct pollfd events[] = {
        { .fd = signal_file, .events = POLLIN },
        { .fd = node->event_file, .events = POLLIN },
    };
    for (;;) {
        pthread_mutex_lock(&node->lock);
        bool has_failed = node->has_failed;
        bool all_ready = node->ready_count == node->running_count;
        pthread_mutex_unlock(&node->lock);

        if (has_failed) {
            q_fault_adopt(&node->fault);
            return node->fault.err;
        }
        if (all_ready && !is_ready) {
            is_ready = true;
            become_ready(node);
            Q_TRY(srv_ready_file_write(node->options.ready_file, node->banner.role_urls));
            node->has_ready_file = true;
        }

        if (poll(events, 2, -1) < 0 && errno != EINTR)
            return Q_FAIL(Q_E_INTERNAL, .sys = errno, .what = "poll");
        struct signalfd_siginfo signal_info;
        if (read(signal_file, &signal_info, sizeof(signal_info)) == sizeof(signal_info)) {
            srv_log(SRV_NODE_STOPPING, "signal=%s", sigabbrev_np((int)signal_info.ssi_signo));
            return Q_OK;
        }
        uint64_t count;
        ssize_t length = read(node->event_file, &count, sizeof(count));
        (void)length; /* what happened stands in `node` */
    }
}

static void
become_ready(struct srv_node *node)
{
    struct srv_banner *banner = &node->banner;
    for (size_t i = 0; i < node->running_count; i++) {
        const struct running_role *running = &node->running[i];
        size_t at = strlen(banner->role_urls);
        (void)snprintf(
            banner->role_urls + at, sizeof(banner->role_urls) - at, "%s %s\n", running->role->name,
            running->role->url(running->state));
    }

    uint64_t took_ns = q_clock_monotonic_ns(q_clock_system()) - node->start_ns;
    banner->ready_ms = took_ns / Q_NS_PER_MS;
    banner->node = &node->view;
    banner->options = &node->options;
    banner->created = node->home.created;
    if (node->options.dev) srv_banner_print(banner);
    srv_log(
        SRV_NODE_READY, "took_ms=%llu roles=%s node=%s meta=%s",
        (unsigned long long)banner->ready_ms, node->roles_text, node->home.node_id, node->meta_url);
}

static enum q_err
stop(struct srv_node *node)
{
    enum q_err first_err = Q_OK;
    struct q_fault first_fault = { .err = Q_OK };

    if (node->has_ready_file) srv_ready_file_remove(node->options.ready_file);
    while (node->running_count > 0) {
        struct running_role *running = &node->running[--node->running_count];
        enum q_err err = running->role->stop(running->state);
        if (err == Q_OK || first_err != Q_OK) continue;
        first_err = err;
        first_fault = *q_fault_last();
    }
    srv_home_close(&node->home);
    if (first_err != Q_OK) q_fault_adopt(&first_fault);
    return first_err;
}

static void
on_second_signal(int number)
{
    (void)number;
    _exit(SRV_EXIT_FAILED);
}

/* Whoever signals a second time does not want to wait; recovery handles what is left. */
static void
stop_at_once_when_asked_again(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    const struct sigaction action = { .sa_handler = on_second_signal };
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

/* One line: what, where, why; what to do. */
static int
tell_failure(const struct srv_node *node, const struct q_fault *fault)
{
    char line[Q_FAULT_LINE_MAX];
    const char *hint = fault->hint[0] ? fault->hint : q_err_hint(fault->err);
    if (fault->sys_errno == EISDIR && !fault->hint[0])
        hint = "remove the directory that stands in the file's place";
    srv_say(
        "%s: %s%s%s", node->program->name, q_fault_format(fault, line, sizeof(line)),
        *hint ? "; " : "", hint);
    return srv_exit_of(fault);
}

void
srv_node_ready(struct srv_node *node)
{
    pthread_mutex_lock(&node->lock);
    node->ready_count++;
    pthread_mutex_unlock(&node->lock);
    signal_main(node);
}

void
srv_node_failed(struct srv_node *node, const struct q_fault *fault)
{
    pthread_mutex_lock(&node->lock);
    if (!node->has_failed) node->fault = *fault;
    node->has_failed = true;
    pthread_mutex_unlock(&node->lock);
    signal_main(node);
}

static void
signal_main(struct srv_node *node)
{
    uint64_t one = 1;
    ssize_t length = write(node->event_file, &one, sizeof(one));
    (void)length; /* fails only when it is set many times over */
}

void
srv_node_tell(struct srv_node *node, const char *name, const char *text)
{
    srv_banner_add(&node->banner, name, text);
}
