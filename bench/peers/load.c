/*
 * load.c: see load.h. Prints a line of JSON for each part of a run:
 *
 *   produce  from the first send to the last acknowledgement; latency from send to acknowledgement
 *   consume  from the start of the consumers to the last acknowledgement that the server has taken in
 *   live     at a fixed rate, latency from the moment at which a message was due to its receipt
 *
 * Each message begins with its number, and consumers keep a bit for each: `lost`, `duplicate` and
 * `left` are 0, or the line says `"ok":false`.
 */
#include "load.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qbase/hist.h>
#include <qbase/opts.h>

enum {
    GROUPS_MAX = 100,
    ARGS_MAX = 64,
    WAIT_MS = 500,
    IDLE_MS_MAX = 10 * 1000, /* a consumer that gets nothing for so long gives up */
    LEFT_MS_MAX = 3000,      /* some servers count late */
    WARM_MS = 1000           /* of a live run, not measured */
};

/* Begins every message. */
struct head {
    uint64_t number;
    uint64_t time_ns; /* when it was sent, or due */
};

/* What a consumer found. Shared with the process that started it. */
struct found {
    _Atomic bool ready;
    _Atomic uint64_t expected; /* messages, once it is known that there are fewer */
    uint64_t distinct;
    uint64_t duplicate;
    uint64_t foreign;
    uint64_t last_ns;
    struct q_hist latency;
};

/* What a stretch of time cost. */
struct cost {
    uint64_t wall_ns;
    uint64_t server_ns; /* CPU, in ticks of 10 ms */
    uint64_t client_ns;
};

struct producing {
    const struct load *load;
    void *producer;
    uint8_t *message;
    uint64_t *sent_ns; /* of messages without an acknowledgement: a ring */
    uint64_t sent;
    uint64_t acked;
    struct q_hist latency;
};

struct consuming {
    struct found *found;
    uint8_t *seen;
    uint64_t messages;
    uint64_t warm; /* messages before this one are not measured */
};

struct line {
    const char *part;
    uint64_t messages;
    uint64_t duplicate;
    uint64_t lost;
    uint64_t left;
    const struct q_hist *latency;
};

/* There is one of each in a process. */
static struct producing producing;
static struct consuming consuming;

static void run_backlog(struct load *load, char **argv);
static void run_live(struct load *load, char **argv);
static void producer_open(const struct load *load);
static void produce_all(const struct load *load);
static void produce_at_rate(const struct load *load, uint64_t begin_ns);
static void produce_one(uint64_t now_ns, uint64_t time_ns);
static void drain(void);
static struct found *found_new(uint64_t count, int *ret_file);
static void consumer_start(char **argv, uint64_t group, int file);
static void consumer_main(const struct load *load, uint64_t group, int file);
static void add_up(const struct load *load, struct found *found, struct line *line);
static struct cost cost_now(const struct load *load);
static struct cost cost_since(const struct load *load, const struct cost *start);
static void print(const struct load *load, const struct cost *cost, const struct line *line);

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

int
main(int argc, char **argv)
{
    static struct load load = {
        .messages = 1000 * 1000,
        .size = 128,
        .window = 4096,
        .batch = 256,
        .fetch = 1000,
        .subjects = 1,
        .groups = 1,
        .duration_ns = 10 * (uint64_t)Q_NS_PER_S,
    };
    uint64_t child = UINT64_MAX;
    uint64_t file = 0;
    const struct q_opt options[] = {
        { "port", 0, Q_OPT_NUMBER, &load.port, "N", "of the server", 1, 65535 },
        { "pid", 0, Q_OPT_NUMBER, &load.pid, "N", "of the server", 1, 0 },
        { "messages", 0, Q_OPT_NUMBER, &load.messages, "N", "at most", 1, 0 },
        { "size", 0, Q_OPT_SIZE, &load.size, "B", "of a message", sizeof(struct head), 0 },
        { "window", 0, Q_OPT_NUMBER, &load.window, "N", "messages in flight", 1, 0 },
        { "batch", 0, Q_OPT_NUMBER, &load.batch, "N", "messages between flushes", 1, 0 },
        { "fetch", 0, Q_OPT_NUMBER, &load.fetch, "N", "messages asked for at once", 1, 0 },
        { "subjects", 0, Q_OPT_NUMBER, &load.subjects, "N", "in turn", 1, 0 },
        { "groups", 0, Q_OPT_NUMBER, &load.groups, "N", "each takes all", 1, GROUPS_MAX },
        { "rate", 0, Q_OPT_NUMBER, &load.rate, "N", "a second, consumed as they come", 1, 0 },
        { "duration", 0, Q_OPT_DURATION, &load.duration_ns, "D", "of producing", 1, 0 },
        { "sync", 0, Q_OPT_FLAG, &load.sync, NULL, "acknowledged when it survives power loss", 0,
          0 },
        { "ack-each", 0, Q_OPT_FLAG, &load.ack_each, NULL, "one by one", 0, 0 },
        { "consume", 0, Q_OPT_FLAG, &load.consume, NULL, "what was produced", 0, 0 },
        { "child", 0, Q_OPT_NUMBER, &child, "GROUP", "of the program's own use", 0, 0 },
        { "shared", 0, Q_OPT_NUMBER, &file, "FD", "of the program's own use", 0, 0 },
    };
    size_t count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    if (q_opts_parse(options, count, argc, argv, &result) != Q_OK) load_die("%s", result.error);
    if (result.help) {
        q_opts_print_help(stdout, options, count);
        return 0;
    }
    (void)prctl(PR_SET_TIMERSLACK, 1UL);
    load.batch = q_min_u64(load.batch, load.window);
    load.live = load.rate > 0;
    if (load.live) load.messages = load.rate * load.duration_ns / Q_NS_PER_S;
    if (child != UINT64_MAX)
        consumer_main(&load, child, (int)file);
    else if (load.live)
        run_live(&load, argv);
    else
        run_backlog(&load, argv);
    return 0;
}

void
load_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fputs("load: ", stderr);
    (void)vfprintf(stderr, format, args);
    (void)fputs("\n", stderr);
    va_end(args);
    exit(1);
}

const char *
load_subject(char out[32], uint64_t subject)
{
    (void)snprintf(out, 32, "bench.%" PRIu64, subject);
    return out;
}

/* --- The two kinds of runs. */

static void
run_backlog(struct load *load, char **argv)
{
    load_peer.create(load);
    producer_open(load);
    struct cost start = cost_now(load);
    produce_all(load);
    struct cost cost = cost_since(load, &start);
    load->messages = producing.acked;
    struct line line = {
        .part = "produce",
        .messages = producing.acked,
        .latency = &producing.latency,
    };
    print(load, &cost, &line);
    if (!load->consume) return;

    int file;
    struct found *found = found_new(load->groups, &file);
    start = cost_now(load);
    for (uint64_t group = 0; group < load->groups; group++) {
        atomic_store(&found[group].expected, load->messages);
        consumer_start(argv, group, file);
    }
    line = (struct line){ .part = "consume" };
    add_up(load, found, &line);
    cost = cost_since(load, &start);
    line.latency = NULL; /* the age of a backlog */
    print(load, &cost, &line);
}

static void
run_live(struct load *load, char **argv)
{
    load_peer.create(load);
    producer_open(load);
    int file;
    struct found *found = found_new(1, &file);
    atomic_store(&found->expected, UINT64_MAX);
    consumer_start(argv, 0, file);
    while (!atomic_load(&found->ready))
        (void)usleep(1000);
    (void)usleep(300 * 1000);
    struct cost start = cost_now(load);
    produce_at_rate(load, now_ns());
    load->messages = producing.sent;
    atomic_store(&found->expected, producing.sent);
    struct line line = { .part = "live" };
    add_up(load, found, &line);
    struct cost cost = cost_since(load, &start);
    cost.wall_ns = found->last_ns - start.wall_ns;
    print(load, &cost, &line);
}

/* --- Producing. */

static void
producer_open(const struct load *load)
{
    producing.load = load;
    producing.sent_ns = calloc(load->window, sizeof(*producing.sent_ns));
    producing.message = malloc(load->size);
    if (producing.sent_ns == NULL || producing.message == NULL) load_die("no memory");
    uint64_t random = 1;
    for (uint64_t i = 0; i < load->size; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        producing.message[i] = (uint8_t)(random >> 56);
    }
    q_hist_init(&producing.latency);
    producing.producer = load_peer.producer(load);
}

static void
produce_all(const struct load *load)
{
    uint64_t until_ns = now_ns() + load->duration_ns;
    while (producing.sent < load->messages) {
        uint64_t now = now_ns();
        if (now > until_ns) break;
        for (uint64_t i = 0; i < load->batch && producing.sent < load->messages; i++)
            produce_one(now, now);
        load_peer.pump(producing.producer, 0);
        while (producing.sent - producing.acked > load->window - load->batch)
            load_peer.pump(producing.producer, UINT64_MAX);
    }
    drain();
}

/* An open loop: what is late is sent at once, and its clock has started. */
static void
produce_at_rate(const struct load *load, uint64_t begin_ns)
{
    uint64_t give_up_ns = begin_ns + load->duration_ns + (uint64_t)IDLE_MS_MAX * Q_NS_PER_MS;
    double gap_ns = (double)Q_NS_PER_S / (double)load->rate;
    while (producing.sent < load->messages) {
        uint64_t now = now_ns();
        if (now > give_up_ns) break;
        uint64_t due_ns = begin_ns + (uint64_t)((double)producing.sent * gap_ns);
        for (uint64_t i = 0; i < load->batch && due_ns <= now; i++) {
            if (producing.sent == load->messages) break;
            produce_one(now, due_ns);
            due_ns = begin_ns + (uint64_t)((double)producing.sent * gap_ns);
        }
        now = now_ns();
        load_peer.pump(producing.producer, due_ns > now ? due_ns - now : 0);
    }
    drain();
}

static void
produce_one(uint64_t now, uint64_t time_ns)
{
    const struct load *load = producing.load;
    while (producing.sent - producing.acked >= load->window)
        load_peer.pump(producing.producer, UINT64_MAX);
    const struct head head = { .number = producing.sent, .time_ns = time_ns };
    memcpy(producing.message, &head, sizeof(head));
    producing.sent_ns[producing.sent % load->window] = now;
    uint64_t subject = producing.sent % load->subjects;
    producing.sent++;
    load_peer.send(producing.producer, subject, producing.message, load->size);
}

static void
drain(void)
{
    while (producing.acked < producing.sent)
        load_peer.pump(producing.producer, UINT64_MAX);
}

void
load_acked(uint64_t count)
{
    uint64_t now = now_ns();
    if (count > producing.sent - producing.acked) load_die("more acknowledgements than messages");
    for (; count > 0; count--) {
        uint64_t sent_ns = producing.sent_ns[producing.acked++ % producing.load->window];
        q_hist_record(&producing.latency, now - sent_ns, 1);
    }
}

/* --- Consuming. */

/* In a file that children inherit. */
static struct found *
found_new(uint64_t count, int *ret_file)
{
    size_t size = count * sizeof(struct found);
    *ret_file = memfd_create("found", 0);
    if (*ret_file < 0 || ftruncate(*ret_file, (off_t)size) != 0) load_die("shared memory: %m");
    struct found *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_file, 0);
    if (found == MAP_FAILED) load_die("shared memory: %m");
    return found;
}

/* The program again: a client with threads can't be forked. */
static void
consumer_start(char **argv, uint64_t group, int file)
{
    char texts[4][24] = { "--child", "", "--shared", "" };
    (void)snprintf(texts[1], sizeof(texts[1]), "%" PRIu64, group);
    (void)snprintf(texts[3], sizeof(texts[3]), "%d", file);
    char *args[ARGS_MAX];
    unsigned count = 0;
    for (; argv[count] != NULL; count++) {
        if (count + 5 == ARGS_MAX) load_die("too many arguments");
        args[count] = argv[count];
    }
    for (unsigned i = 0; i < 4; i++)
        args[count++] = texts[i];
    args[count] = NULL;
    pid_t child = fork();
    if (child < 0) load_die("fork: %m");
    if (child > 0) return;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)execv("/proc/self/exe", args);
    _exit(127);
}

static void
consumer_main(const struct load *load, uint64_t group, int file)
{
    size_t size = (group + 1) * sizeof(struct found);
    struct found *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found == MAP_FAILED) load_die("shared memory: %m");
    consuming.found = &found[group];
    consuming.messages = load->messages;
    consuming.warm = load->live ? load->rate * WARM_MS / Q_MS_PER_S : 0;
    consuming.seen = calloc(1, load->messages / 8 + 1);
    if (consuming.seen == NULL) load_die("no memory");
    found = consuming.found;
    q_hist_init(&found->latency);
    void *consumer = load_peer.consumer(load, group);
    atomic_store(&found->ready, true);
    uint64_t last_ns = now_ns();
    while (found->distinct + found->duplicate < atomic_load(&found->expected)) {
        uint64_t got = load_peer.receive(consumer, WAIT_MS);
        uint64_t now = now_ns();
        if (got > 0) last_ns = now;
        if (now - last_ns > (uint64_t)IDLE_MS_MAX * Q_NS_PER_MS) break;
    }
    load_peer.finish(consumer);
}

void
load_message(const void *data, size_t size)
{
    struct found *found = consuming.found;
    struct head head = { 0 };
    if (size >= sizeof(head)) memcpy(&head, data, sizeof(head));
    if (size < sizeof(head) || head.number >= consuming.messages) {
        found->foreign++;
        return;
    }
    uint8_t bit = (uint8_t)(1u << (head.number % 8));
    if (consuming.seen[head.number / 8] & bit) {
        found->duplicate++;
        return;
    }
    consuming.seen[head.number / 8] |= bit;
    found->distinct++;
    found->last_ns = now_ns();
    if (head.number >= consuming.warm)
        q_hist_record(&found->latency, found->last_ns - head.time_ns, 1);
}

/* Waits for the consumers. */
static void
add_up(const struct load *load, struct found *found, struct line *line)
{
    int status;
    while (wait(&status) > 0)
        if (status != 0) load_die("a consumer failed");
    uint64_t groups = load->live ? 1 : load->groups;
    for (uint64_t group = 0; group < groups; group++) {
        line->messages += found[group].distinct + found[group].duplicate;
        line->duplicate += found[group].duplicate + found[group].foreign;
        line->lost += load->messages - found[group].distinct;
        uint64_t left = load_peer.left(load, group);
        for (unsigned ms = 0; left > 0 && left != UINT64_MAX && ms < LEFT_MS_MAX; ms += 100) {
            (void)usleep(100 * 1000);
            left = load_peer.left(load, group);
        }
        if (left != UINT64_MAX) line->left += left;
    }
    line->latency = &found->latency;
}

/* --- What it cost, and the line. */

static uint64_t
rusage_ns(int who)
{
    struct rusage usage;
    (void)getrusage(who, &usage);
    uint64_t seconds = (uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec;
    uint64_t micros = (uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec;
    return seconds * Q_NS_PER_S + micros * Q_NS_PER_US;
}

/* A file of /proc/PID in `out`; "" when the process is gone. */
static void
read_proc(uint64_t pid, const char *name, char *out, size_t out_size)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%" PRIu64 "/%s", pid, name);
    FILE *file = fopen(path, "re");
    size_t size = file == NULL ? 0 : fread(out, 1, out_size - 1, file);
    if (file != NULL) (void)fclose(file);
    out[size] = '\0';
}

static uint64_t
server_cpu_ns(uint64_t pid)
{
    char text[1024];
    read_proc(pid, "stat", text, sizeof(text));
    const char *behind_name = strrchr(text, ')');
    uint64_t user;
    uint64_t system;
    if (behind_name == NULL ||
        sscanf(
            behind_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
            &user, &system) != 2)
        return 0;
    return (user + system) * (Q_NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
}

static uint64_t
server_memory(uint64_t pid)
{
    char text[4096];
    read_proc(pid, "status", text, sizeof(text));
    const char *line = strstr(text, "VmRSS:");
    return line == NULL ? 0 : strtoull(line + strlen("VmRSS:"), NULL, 10) * 1024;
}

static struct cost
cost_now(const struct load *load)
{
    return (struct cost){
        .wall_ns = now_ns(),
        .server_ns = server_cpu_ns(load->pid),
        .client_ns = rusage_ns(RUSAGE_SELF) + rusage_ns(RUSAGE_CHILDREN),
    };
}

static struct cost
cost_since(const struct load *load, const struct cost *start)
{
    struct cost now = cost_now(load);
    return (struct cost){
        .wall_ns = now.wall_ns - start->wall_ns,
        .server_ns = now.server_ns - start->server_ns,
        .client_ns = now.client_ns - start->client_ns,
    };
}

static void
print(const struct load *load, const struct cost *cost, const struct line *line)
{
    double seconds = (double)cost->wall_ns / (double)Q_NS_PER_S;
    double messages = (double)q_max_u64(line->messages, 1);
    (void)printf(
        "{\"part\":\"%s\",\"messages\":%" PRIu64 ",\"seconds\":%.3f,\"msgs_per_s\":%.0f,"
        "\"bytes_per_s\":%.0f,\"server_cpu_us_per_msg\":%.3f,\"client_cpu_us_per_msg\":%.3f,"
        "\"server_rss_bytes\":%" PRIu64,
        line->part, line->messages, seconds, messages / seconds,
        messages * (double)load->size / seconds, (double)cost->server_ns / 1e3 / messages,
        (double)cost->client_ns / 1e3 / messages, server_memory(load->pid));
    static const struct {
        const char *name;
        double quantile;
    } quantiles[] = { { "p50_us", 0.5 }, { "p99_us", 0.99 }, { "p999_us", 0.999 } };
    for (unsigned i = 0; line->latency != NULL && i < 3; i++) {
        uint64_t ns = q_hist_quantile(line->latency, quantiles[i].quantile);
        (void)printf(",\"%s\":%.1f", quantiles[i].name, (double)ns / 1e3);
    }
    if (line->latency != NULL) (void)printf(",\"max_us\":%.1f", (double)line->latency->max / 1e3);
    bool ok = line->duplicate == 0 && line->lost == 0 && line->left == 0;
    (void)printf(
        ",\"duplicate\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"left\":%" PRIu64 ",\"ok\":%s}\n",
        line->duplicate, line->lost, line->left, ok ? "true" : "false");
    (void)fflush(stdout);
}
