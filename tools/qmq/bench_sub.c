/*
 * bench_sub.c: `qmq bench sub`: how fast a backlog of `bench pub` is drained, every message
 * acknowledged, and whether all of it came, once and in order.
 *
 * One handler counts, and acknowledgements go beside it. The latency is how long it waited for the next
 * message. A new group is used each time, so the whole backlog is drained.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/clock.h>

#include "bench.h"
#include "interrupt.h"

enum {
    RUNS_MAX = 64,
    LOOK_US = 1000,
    STOP_MS = 30 * 1000,
    BITS = 64,
    BITS_FIRST = 64 * 1024,
};

/* What came of one run of `bench pub` in one subject. */
struct track {
    uint64_t run;
    uint64_t subject;
    uint64_t distinct;
    uint64_t end; /* highest counter + 1 */
    uint64_t *seen;
    uint64_t seen_bits;
};

struct bench_sub {
    uint64_t batch;
    uint64_t duration_ns;
    uint64_t subjects;
    bool at_most_once;
    struct qmq_client *client;
    char group[32];
    struct bench_result result;
    uint64_t duplicate;
    uint64_t out_of_order;
    uint64_t foreign; /* not from `bench pub` */
    struct track *tracks;
    size_t track_count;
    uint64_t last_ns; /* when the handler was called last; 0: not yet */
    atomic_int exit_code;
};

static int run(struct bench_sub *bench, const struct bench_output *output);
static int drain(struct bench_sub *bench, const char *subject, uint64_t until_ns);
static bool wait_drained(struct bench_sub *bench, struct qmq_push *push, uint64_t until_ns);
static int handle(void *context, const struct qmq_message *message, struct qmq_delivery *delivery);
static void trouble(void *context, const struct qmq_trouble *trouble);
static enum q_err check(struct bench_sub *bench, const struct qmq_message *message);
static struct track *find_track(struct bench_sub *bench, const struct bench_body *head);
static enum q_err grow(struct track *track, uint64_t counter);
static uint64_t count_lost(const struct bench_sub *bench);
static uint64_t now_ns(void);

int
bench_sub_run(const struct command *command, int argc, char **argv)
{
    static struct bench_sub bench;
    bench = (struct bench_sub){
        .batch = 8192,
        .duration_ns = 60 * (uint64_t)Q_NS_PER_S,
        .subjects = 1,
    };
    const char *meta = meta_default();
    const char *format = "text";
    const char *compare = NULL;
    const char *ack = "async";
    const struct q_opt options[] = {
        { "batch", 0, Q_OPT_NUMBER, &bench.batch, "N", "messages held at most (8192)", 1, 10000 },
        { "duration", 0, Q_OPT_DURATION, &bench.duration_ns, "D", "not longer than this (60s)", 1,
          0 },
        { "subjects", 0, Q_OPT_NUMBER, &bench.subjects, "N",
          "bench, or bench-0 to bench-N-1 one after another (1)", 1, BENCH_SUBJECTS_MAX },
        { "ack", 0, Q_OPT_TEXT, &ack, "MODE",
          "async: each is acknowledged; none: handed out at most once (async)", 0, 0 },
        BENCH_OUTPUT_OPTIONS(format, compare),
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    struct bench_output output;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 0, argc, argv, &result,
            &exit_code))
        return exit_code;
    bench.at_most_once = strcmp(ack, "none") == 0;
    if (!bench.at_most_once && strcmp(ack, "async") != 0)
        return usage_error(command, "--ack '%s': async or none", ack);
    if (!bench_open_output(command, format, "sub", compare, &output)) return EXIT_USAGE;

    interrupt_block();
    bench.client = connect_to(meta, &exit_code);
    if (!bench.client) {
        bench_close_output(&output);
        return exit_code;
    }
    interrupt_here();
    exit_code = run(&bench, &output);
    qmq_client_free(bench.client);
    for (size_t index = 0; index < bench.track_count; index++)
        free(bench.tracks[index].seen);
    free(bench.tracks);
    bench_close_output(&output);
    return exit_code;
}

static int
run(struct bench_sub *bench, const struct bench_output *output)
{
    bench->tracks = calloc(RUNS_MAX * bench->subjects, sizeof(*bench->tracks));
    if (!bench->tracks) {
        (void)Q_FAIL(Q_E_NOMEM);
        return report_error("consume");
    }
    (void)snprintf(
        bench->group, sizeof(bench->group), "bench-%llx",
        (unsigned long long)q_clock_wall_ms(q_clock_system()));
    q_hist_init(&bench->result.latency);
    bench->result.name = "sub";

    uint64_t server_ns = bench_server_ns(bench->client);
    uint64_t cpu_ns = bench_cpu_ns();
    uint64_t begin_ns = now_ns();
    int exit_code = EXIT_OK;
    for (uint64_t index = 0; index < bench->subjects && exit_code == EXIT_OK; index++) {
        char subject[32];
        (void)bench_subject(subject, sizeof(subject), index, bench->subjects);
        exit_code = drain(bench, subject, begin_ns + bench->duration_ns);
    }
    bench->result.took_ns = now_ns() - begin_ns;
    bench->result.cpu_ns = bench_cpu_ns() - cpu_ns;
    bench->result.server_ns = bench_server_ns(bench->client) - server_ns;

    uint64_t lost = count_lost(bench);
    const struct bench_field fields[] = {
        { "batch", bench->batch },
        { "subjects", bench->subjects },
        { "lost", lost },
        { "duplicate", bench->duplicate },
        { "out_of_order", bench->out_of_order },
        { "foreign", bench->foreign },
    };
    bench_print(&bench->result, fields, sizeof(fields) / sizeof(fields[0]), output);
    bool is_right = lost + bench->duplicate + bench->out_of_order == 0;
    return exit_code == EXIT_OK && !is_right ? EXIT_FAILED : exit_code;
}

static int
drain(struct bench_sub *bench, const char *subject, uint64_t until_ns)
{
    const struct qmq_consumer_options wanted = {
        .subject = subject,
        .group = bench->group,
        .at_most_once = bench->at_most_once,
    };
    const struct qmq_push_options options = {
        .consumer = &wanted,
        .handler = handle,
        .context = bench,
        .prefetch_messages = (uint32_t)bench->batch,
        .trouble = trouble,
        .trouble_context = bench,
    };
    struct qmq_push *push;
    bench->last_ns = 0;
    if (qmq_push_new(bench->client, &options, &push) != QMQ_OK)
        return report_error("join \"%s\"", subject);

    bool is_drained = wait_drained(bench, push, until_ns);
    int code = qmq_push_stop(push, is_drained ? STOP_MS : 0);
    if (is_drained && code != QMQ_OK)
        atomic_store(&bench->exit_code, report_error("acknowledge messages of \"%s\"", subject));
    qmq_push_free(push);
    return atomic_load(&bench->exit_code);
}

/* Nothing waits, and all that came is on record as acknowledged. */
static bool
wait_drained(struct bench_sub *bench, struct qmq_push *push, uint64_t until_ns)
{
    while (!interrupt_signal() && now_ns() < until_ns && !atomic_load(&bench->exit_code)) {
        struct qmq_push_info info;
        qmq_push_info(push, &info);
        if (info.consumer.waiting + info.consumer.unacked + info.held == 0) return true;
        (void)usleep(LOOK_US);
    }
    return false;
}

static int
handle(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    struct bench_sub *bench = context;
    uint64_t begin_ns = now_ns();
    (void)delivery;
    if (bench->last_ns > 0) q_hist_record(&bench->result.latency, begin_ns - bench->last_ns, 1);
    bench->last_ns = begin_ns;
    if (check(bench, message) == Q_OK) return 0;
    atomic_store(&bench->exit_code, report_error("check messages"));
    return 1;
}

/* With this thread's last error. What is tried again is not the end of it. */
static void
trouble(void *context, const struct qmq_trouble *trouble)
{
    struct bench_sub *bench = context;
    if (!trouble->is_tried_again)
        atomic_store(&bench->exit_code, report_error("take or acknowledge messages"));
}

static enum q_err
check(struct bench_sub *bench, const struct qmq_message *message)
{
    bench->result.messages++;
    bench->result.bytes += message->body.size;

    struct bench_body head = { .run = 0 };
    struct track *track = NULL;
    if (message->body.size >= BENCH_BODY_MIN) {
        memcpy(&head, message->body.data, sizeof(head));
        track = find_track(bench, &head);
    }
    if (!track) {
        bench->foreign++;
        return Q_OK;
    }
    Q_TRY(grow(track, head.counter));

    uint64_t bit = UINT64_C(1) << (head.counter % BITS);
    uint64_t *word = &track->seen[head.counter / BITS];
    if (*word & bit) {
        bench->duplicate++;
        return Q_OK;
    }
    *word |= bit;
    track->distinct++;
    if (head.counter < track->end) bench->out_of_order++;
    if (head.counter >= track->end) track->end = head.counter + 1;
    return Q_OK;
}

/* Mostly the one found last; NULL when there are more runs than can be told apart. */
static struct track *
find_track(struct bench_sub *bench, const struct bench_body *head)
{
    for (size_t index = bench->track_count; index-- > 0;) {
        struct track *track = &bench->tracks[index];
        if (track->run == head->run && track->subject == head->subject) return track;
    }
    if (bench->track_count == RUNS_MAX * bench->subjects) return NULL;
    struct track *track = &bench->tracks[bench->track_count++];
    *track = (struct track){ .run = head->run, .subject = head->subject };
    return track;
}

static enum q_err
grow(struct track *track, uint64_t counter)
{
    enum {
        COUNTER_BITS = 36
    };
    if (counter < track->seen_bits) return Q_OK;
    if (counter >> COUNTER_BITS)
        return Q_FAIL(
            Q_INVALID, .what = q_text("counter %llu is none of ours", (unsigned long long)counter));

    uint64_t bits = track->seen_bits ? track->seen_bits : BITS_FIRST;
    while (bits <= counter)
        bits *= 2;
    uint64_t *seen = realloc(track->seen, bits / 8);
    if (!seen) return Q_FAIL(Q_E_NOMEM);
    memset(seen + track->seen_bits / BITS, 0, (bits - track->seen_bits) / 8);
    track->seen = seen;
    track->seen_bits = bits;
    return Q_OK;
}

static uint64_t
count_lost(const struct bench_sub *bench)
{
    uint64_t lost = 0;
    for (size_t index = 0; index < bench->track_count; index++)
        lost += bench->tracks[index].end - bench->tracks[index].distinct;
    return lost;
}

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}
