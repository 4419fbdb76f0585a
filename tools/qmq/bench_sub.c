/*
 * bench_sub.c: `qmq bench sub`: how fast a backlog of `bench pub` is drained, every message
 * acknowledged, and whether all of it came, once and in order.
 *
 * The latency is that of a pull. A new group is used each time, so the whole backlog is drained.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/clock.h>

#include "bench.h"
#include "interrupt.h"

enum {
    RUNS_MAX = 64,
    WAIT_MS = 10,
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
    struct qmq_client *client;
    char group[32];
    struct bench_result result;
    uint64_t duplicate;
    uint64_t out_of_order;
    uint64_t foreign; /* not from `bench pub` */
    struct track *tracks;
    size_t track_count;
};

static int run(struct bench_sub *bench, bool is_json);
static int drain(struct bench_sub *bench, const char *subject, uint64_t until_ns);
static int check_all(struct bench_sub *bench, const struct qmq_batch *batch);
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
        .batch = 2048,
        .duration_ns = 60 * (uint64_t)Q_NS_PER_S,
        .subjects = 1,
    };
    const char *meta = meta_default();
    const char *format = "text";
    const struct q_opt options[] = {
        { "batch", 0, Q_OPT_NUMBER, &bench.batch, "N", "messages of a pull at most (2048)", 1,
          10000 },
        { "duration", 0, Q_OPT_DURATION, &bench.duration_ns, "D", "not longer than this (60s)", 1,
          0 },
        { "subjects", 0, Q_OPT_NUMBER, &bench.subjects, "N",
          "bench, or bench-0 to bench-N-1 one after another (1)", 1, BENCH_SUBJECTS_MAX },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    bool is_json;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 0, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!bench_format(command, format, &is_json)) return EXIT_USAGE;

    interrupt_block();
    bench.client = connect_to(meta, &exit_code);
    if (!bench.client) return exit_code;
    interrupt_here();
    exit_code = run(&bench, is_json);
    qmq_client_free(bench.client);
    for (size_t index = 0; index < bench.track_count; index++)
        free(bench.tracks[index].seen);
    free(bench.tracks);
    return exit_code;
}

static int
run(struct bench_sub *bench, bool is_json)
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

    uint64_t lost = count_lost(bench);
    const struct bench_field fields[] = {
        { "batch", bench->batch },
        { "subjects", bench->subjects },
        { "lost", lost },
        { "duplicate", bench->duplicate },
        { "out_of_order", bench->out_of_order },
        { "foreign", bench->foreign },
    };
    bench_print(&bench->result, fields, sizeof(fields) / sizeof(fields[0]), is_json);
    bool is_right = lost + bench->duplicate + bench->out_of_order == 0;
    return exit_code == EXIT_OK && !is_right ? EXIT_FAILED : exit_code;
}

static int
drain(struct bench_sub *bench, const char *subject, uint64_t until_ns)
{
    struct qmq_consumer_options wanted = { .subject = subject, .group = bench->group };
    struct qmq_consumer *consumer;
    if (qmq_consumer_new(bench->client, &wanted, &consumer) != QMQ_OK)
        return report_error("join \"%s\"", subject);

    int exit_code = EXIT_OK;
    uint32_t wait_ms = 0;
    while (exit_code == EXIT_OK && !interrupt_signal()) {
        struct qmq_batch *batch;
        uint64_t begin_ns = now_ns();
        if (begin_ns >= until_ns) break;
        int code = qmq_pull(consumer, (uint32_t)bench->batch, wait_ms, &batch);
        if (code == QMQ_AGAIN) {
            struct qmq_consumer_info info;
            qmq_consumer_info(consumer, &info);
            if (info.waiting == 0) break;
            wait_ms = WAIT_MS;
            continue;
        }
        if (code != QMQ_OK) {
            exit_code = report_error("take messages of \"%s\"", subject);
            break;
        }
        q_hist_record(&bench->result.latency, now_ns() - begin_ns, 1);
        exit_code = check_all(bench, batch);
        if (exit_code == EXIT_OK && qmq_ack(consumer, batch, 0, qmq_batch_count(batch)) != QMQ_OK)
            exit_code = report_error("acknowledge messages of \"%s\"", subject);
        qmq_batch_free(batch);
    }
    qmq_consumer_free(consumer);
    return exit_code;
}

static int
check_all(struct bench_sub *bench, const struct qmq_batch *batch)
{
    size_t count = qmq_batch_count(batch);
    for (size_t index = 0; index < count; index++)
        if (check(bench, qmq_batch_message(batch, index)) != Q_OK)
            return report_error("check messages");
    return EXIT_OK;
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
