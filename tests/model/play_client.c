/*
 * play_client.c: what clients do, and how they do it again when power loss took the end of the log.
 */
#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <string.h>

#include "play_inside.h"

enum {
    FILTERS = 8,
    ONLY_GROUPS = 2, /* that copies are for */
    FRAME = 4096     /* the smallest */
};

static const char *const consumer_names[REF_CONSUMERS] = { "a", "b", "c" };
static const uint32_t consumer_of[PLAY_CLIENTS] = { 0, 1, 2, 0, 1 };

static const struct {
    uint8_t tags;
    bool all;
} filters[FILTERS] = {
    { 0, false }, { 0, false }, { 0, false }, { 1, false },
    { 2, true },  { 3, false }, { 3, true },  { 14, false },
};

/* Of an operation, what the model is told. */
struct asked {
    struct ref_who who;
    struct client *client;
    struct qlog_range ranges[2];
    uint32_t range_count;
};

static struct qlog_consumer
consumer_name(const struct asked *asked)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(machine_subject),
        .group = q_bytes_from_text(play_groups[asked->who.group]),
        .consumer = q_bytes_from_text(consumer_names[asked->who.consumer]),
        .session = asked->who.session,
    };
}

static struct asked
asked_of(struct play *play, const struct play_op *op)
{
    uint32_t group = op->numbers[0] % REF_GROUPS;
    uint32_t number = op->numbers[1] % PLAY_CLIENTS;
    struct client *client = &play->clients[group][number];
    return (struct asked){
        .client = client,
        .who = { .group = group, .consumer = consumer_of[number], .session = client->session },
    };
}

/* Two ranges of what the client was given, in any order; the second one now and then only. */
static void
asked_ranges(struct asked *asked, const struct play_op *op)
{
    const struct client *client = asked->client;
    if (client->known_count == 0) return;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t first = op->numbers[2 + 2 * i] % client->known_count;
        uint32_t length = 1 + op->numbers[3 + 2 * i] % 4;
        if (i == 1 && op->numbers[3 + 2 * i] % 3 != 0) break;
        uint32_t last = (uint32_t)q_min_u64(first + length, client->known_count) - 1;
        struct qlog_range range = {
            q_min_u64(client->known[first], client->known[last]),
            q_max_u64(client->known[first], client->known[last]),
        };
        if (i == 1 && range.first <= asked->ranges[0].last && range.last >= asked->ranges[0].first)
            break;
        asked->ranges[asked->range_count++] = range;
    }
}

static struct ref_message
random_message(struct random_source *random)
{
    struct ref_message message = {
        .tags = (uint8_t)(random_below(random, 3) == 0 ? 0 : random_below(random, 16)),
        .key = (uint8_t)(random_below(random, 2) == 0 ? 0 : random_below(random, 4)),
        .only =
            (uint8_t)(random_below(random, 16) == 0 ? 1 + random_below(random, ONLY_GROUPS) : 0),
    };
    return message;
}

void
play_publish(struct play *play, const struct play_op *op)
{
    struct ref_message messages[4];
    struct machine_message sent[4];
    struct random_source random = { .state = op->numbers[1] };
    uint32_t count = 1 + op->numbers[0] % 4;
    if (play->ref.state.end + count > REF_MESSAGES) return;
    for (uint32_t i = 0; i < count; i++) {
        messages[i] = random_message(&random);
        uint8_t only = messages[i].only;
        sent[i] = (struct machine_message){
            messages[i].tags,
            messages[i].key,
            only == 0 ? NULL : play_groups[only - 1],
        };
    }
    ref_publish(&play->ref, messages, count);
    play_same_err(play, "publish", machine_publish(&play->machine, sent, count), Q_OK);
}

uint64_t
play_moment_ms(const struct play *play, uint32_t number)
{
    uint64_t end = play->ref.state.end;
    if (end == 0) return play->ref.state.now_ms;
    return play->ref.messages[number % end].stored_ms + number % 3 - 1;
}

void
play_check_start(struct play *play, uint64_t at_ms, uint64_t cursor)
{
    uint64_t early = ref_start_at(&play->ref, at_ms / Q_MS_PER_S * Q_MS_PER_S);
    uint64_t late = ref_start_at(&play->ref, at_ms);
    if (cursor < early || cursor > late)
        play_differ(
            play, "a start by time: the machine says %llu, the model %llu to %llu",
            (unsigned long long)cursor, (unsigned long long)early, (unsigned long long)late);
}

static enum qlog_start
join_start(const struct play_op *op)
{
    if (op->numbers[3] % 4 == 0) return QLOG_START_LATEST;
    return op->numbers[3] % 4 == 3 ? QLOG_START_TIME : QLOG_START_EARLIEST;
}

static struct ref_answer
model_join(
    struct play *play,
    const struct play_op *op,
    const struct asked *asked,
    uint64_t next,
    uint64_t cursor)
{
    enum qlog_start start = join_start(op);
    const struct ref_join join = {
        .who = asked->who,
        .token = asked->client->token,
        .next = next,
        .tags = filters[op->numbers[2] % FILTERS].tags,
        .all = filters[op->numbers[2] % FILTERS].all,
        .broadcast = asked->who.group == PLAY_BROADCAST,
        .start = start == QLOG_START_TIME ? QLOG_START_SEQUENCE : start,
        .at = cursor,
        .settings = &play_group_settings[op->numbers[4] % PLAY_SETTINGS],
    };
    return ref_join(&play->ref, &join);
}

void
play_join(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct client *client = asked.client;
    bool again = op->numbers[5] % 4 == 0 && client->token != 0;
    if (!again) client->token = ++play->tokens;
    struct qlog_join join = {
        .request = { .kind = QLOG_JOIN },
        .who = consumer_name(&asked),
        .tags_all = filters[op->numbers[2] % FILTERS].all,
        .broadcast = asked.who.group == PLAY_BROADCAST,
        .start = join_start(op),
        .start_at = play_moment_ms(play, op->numbers[3]),
        .settings = &play_group_settings[op->numbers[4] % PLAY_SETTINGS],
    };
    join.tag_count = machine_tags(filters[op->numbers[2] % FILTERS].tags, join.tags);
    q_store_le64(join.token, client->token);
    enum q_err err = machine_run(&play->machine, &join.request);
    struct client before = *client;
    asked.who.session = join.session;
    uint64_t next = machine_next_pull(
        &play->machine, play_groups[asked.who.group], consumer_names[asked.who.consumer]);
    struct ref_answer model = model_join(play, op, &asked, next, join.cursor);
    if (join.start == QLOG_START_TIME && model.created)
        play_check_start(play, join.start_at, join.cursor);
    if (play_same_err(play, "join", err, model.err)) {
        uint64_t session =
            play->ref.state.groups[asked.who.group].consumers[asked.who.consumer].session;
        SAME(play, "join: session", join.session, session);
        SAME(play, "join: cursor", join.cursor, model.cursor);
        SAME(play, "join: waiting", join.waiting, model.waiting);
        SAME(play, "join: pending", join.pending, model.pending);
        SAME(play, "join: unacked", join.unacked, model.unacked);
        SAME(play, "join: created", join.group_created, model.created);
        if (model.reused)
            play_differ(
                play, "pull sequences from %llu were given before", (unsigned long long)next);
        client->session = join.session;
        if (!again) client->received = client->received_before = 0;
    }
    play_note(play, op, &before, join.session);
    if (!play->plain) return;
    play->log[play->log_count - 1].next = next;
    play->log[play->log_count - 1].cursor = join.cursor;
}

void
play_leave(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_session leave = {
        .request = { .kind = QLOG_LEAVE },
        .who = consumer_name(&asked),
    };
    enum q_err err = machine_run(&play->machine, &leave.request);
    play_same_err(play, "leave", err, ref_leave(&play->ref, &asked.who).err);
    play_note(play, op, asked.client, 0);
}

void
play_keep(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_session keep = {
        .request = { .kind = QLOG_KEEP_ALIVE },
        .who = consumer_name(&asked),
    };
    enum q_err err = machine_run(&play->machine, &keep.request);
    play_same_err(play, "keep alive", err, ref_keep_alive(&play->ref, &asked.who).err);
    play_note(play, op, asked.client, 0);
}

/* --- Pulls. */

static struct ref_pull
pull_of(const struct play_op *op, const struct asked *asked)
{
    static const uint32_t invisible_ms[] = { 0, 0, 0, 2000, 7000, 45000 };
    return (struct ref_pull){
        .who = asked->who,
        .max = 1 + op->numbers[2] % 7,
        /* The last answer was lost, now and then. */
        .received =
            op->numbers[3] % 8 == 0 ? asked->client->received_before : asked->client->received,
        .invisible_ms = invisible_ms[op->numbers[4] % 6],
        .once = op->numbers[5] % 16 == 0,
    };
}

/* Whether the answer has the batch that holds the message. */
static bool
has_piece(const struct qlog_pull *pull, uint64_t sequence)
{
    for (uint32_t i = 0; i < pull->piece_count; i++) {
        const struct qlog_piece *piece = &pull->pieces[i];
        struct qbatch batch;
        enum q_err err = qbatch_open(q_bytes_from(piece->envelope, piece->envelope_size), &batch);
        Q_ASSERT(err == Q_OK);
        if (sequence - batch.first_sequence < batch.message_count) return true;
    }
    return false;
}

static void
compare_pull(struct play *play, const struct qlog_pull *pull, const struct ref_answer *model)
{
    struct ref_hand hands[REF_PULL_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < pull->run_count; i++)
        for (uint32_t j = 0; j < pull->runs[i].count && count < REF_PULL_MAX; j++)
            hands[count++] = (struct ref_hand){
                pull->runs[i].pull_sequence + j,
                pull->runs[i].sequence + j,
                pull->runs[i].attempt,
            };
    for (uint32_t i = 0; i < count; i++)
        play_tell(
            play, "    %llu: message %llu, attempt %u", (unsigned long long)hands[i].pull_sequence,
            (unsigned long long)hands[i].sequence, hands[i].attempt);
    SAME(play, "pull: messages", count, model->hand_count);
    for (uint32_t i = 0; i < count && i < model->hand_count; i++) {
        SAME(play, "pull: message", hands[i].sequence, model->hands[i].sequence);
        SAME(play, "pull: pull sequence", hands[i].pull_sequence, model->hands[i].pull_sequence);
        SAME(play, "pull: attempt", hands[i].attempt, model->hands[i].attempt);
    }
    for (uint32_t i = 0; i < count; i++)
        SAME(play, "pull: its batch is there", has_piece(pull, hands[i].sequence), true);
    SAME(play, "pull: unacked", pull->unacked, model->unacked);
    SAME(play, "pull: waiting", pull->waiting, model->waiting);
    SAME(play, "pull: held", pull->held, model->held);
}

static void
client_given(struct client *client, uint64_t pull_sequence)
{
    for (uint32_t i = 0; i < client->known_count; i++)
        if (client->known[i] == pull_sequence) return;
    if (client->known_count == PLAY_KNOWN_MAX)
        memmove(client->known, client->known + 1, --client->known_count * sizeof(client->known[0]));
    client->known[client->known_count++] = pull_sequence;
}

static struct qlog_pull
pull_request(struct play *play, const struct asked *asked, const struct ref_pull *wanted)
{
    return (struct qlog_pull){
        .request = { .kind = QLOG_PULL },
        .who = consumer_name(asked),
        .messages_max = wanted->max,
        .bytes_max = 1024 * 1024,
        .received = wanted->received,
        .invisible_ms = wanted->invisible_ms,
        .once = wanted->once,
        .runs = play->machine.runs,
        .runs_max = MACHINE_RUNS_MAX,
        .pieces = play->machine.pieces,
        .pieces_max = MACHINE_RUNS_MAX,
    };
}

static void
pull_answered(
    struct play *play,
    const struct asked *asked,
    const struct ref_pull *wanted,
    struct qlog_pull *pull,
    const struct ref_answer *model)
{
    compare_pull(play, pull, model);
    qlog_pull_release(pull);
    for (uint32_t i = 0; i < model->hand_count; i++)
        client_given(asked->client, model->hands[i].pull_sequence);
    if (model->hand_count == 0) return;
    asked->client->received_before = wanted->received;
    asked->client->received = model->hands[model->hand_count - 1].pull_sequence + 1;
}

void
play_pull(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct client before = *asked.client;
    struct ref_pull wanted = pull_of(op, &asked);
    struct qlog_pull pull = pull_request(play, &asked, &wanted);
    enum q_err err = machine_run(&play->machine, &pull.request);
    struct ref_answer model = ref_pull(&play->ref, &wanted);
    if (play_same_err(play, "pull", err, model.err))
        pull_answered(play, &asked, &wanted, &pull, &model);
    play_note(play, op, &before, 0);
}

static bool
is_due_now(const struct ref_state *state, uint32_t number)
{
    const struct ref_group *group = &state->groups[number];
    for (uint64_t i = 0; i < group->cursor; i++)
        if (group->rows[i].place == REF_PENDING && group->rows[i].time_ms == state->now_ms)
            return true;
    return false;
}

/*
 * A pull that waits is answered as soon as something is due for it. It waits no longer than until
 * something else happens by itself: of several things in one millisecond the first one answers it.
 */
void
play_wait(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct ref_pull wanted = pull_of(op, &asked);
    struct qlog_pull pull = pull_request(play, &asked, &wanted);
    uint64_t now_ms = play->ref.state.now_ms;
    uint64_t until_ms = now_ms + op->numbers[5] * UINT64_C(20);
    until_ms = q_min_u64(until_ms, ref_next_ms(&play->ref, false) - 1);
    pull.wait_ns = (until_ms - now_ms) * Q_NS_PER_MS;
    struct machine_call call;
    machine_begin(&play->machine, &pull.request, &call);
    struct ref_answer model = ref_pull(&play->ref, &wanted);
    play->plain = false;
    while (model.err == Q_OK && model.hand_count == 0 && play->ref.state.now_ms < until_ms) {
        if (call.done) play_differ(play, "wait: answered early, with nothing");
        now_ms = q_min_u64(until_ms, ref_next_ms(&play->ref, true));
        machine_time(&play->machine, now_ms);
        ref_time(&play->ref, now_ms);
        if (now_ms == until_ms || is_due_now(&play->ref.state, asked.who.group))
            model = ref_pull(&play->ref, &wanted);
    }
    if (!call.done) {
        play_differ(play, "wait: there is something, and it is not answered");
        machine_time(&play->machine, until_ms);
    }
    if (play_same_err(play, "wait", call.err, model.err))
        pull_answered(play, &asked, &wanted, &pull, &model);
}

/* --- Acks. */

static void
compare_late(
    struct play *play,
    const struct asked *asked,
    const struct qlog_range *late,
    uint32_t count,
    const struct ref_answer *model)
{
    SAME(play, "ranges that came too late", count, model->late_count);
    for (uint32_t i = 0; i < model->late_count; i++) {
        const struct qlog_range *range = &asked->ranges[model->late[i]];
        bool told = false;
        for (uint32_t j = 0; j < count; j++)
            told |= late[j].first == range->first && late[j].last == range->last;
        if (!told)
            play_differ(
                play, "pull sequences %llu to %llu came too late, and are not told",
                (unsigned long long)range->first, (unsigned long long)range->last);
    }
}

void
play_ack(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_range late[4];
    asked_ranges(&asked, op);
    if (asked.range_count == 0) return;
    struct qlog_ack ack = {
        .request = { .kind = QLOG_ACK },
        .who = consumer_name(&asked),
        .ranges = asked.ranges,
        .range_count = asked.range_count,
        .expired = late,
        .expired_max = 4,
    };
    for (uint32_t i = 0; i < asked.range_count; i++)
        play_tell(
            play, "    %llu to %llu", (unsigned long long)asked.ranges[i].first,
            (unsigned long long)asked.ranges[i].last);
    enum q_err err = machine_run(&play->machine, &ack.request);
    struct ref_answer model = ref_ack(&play->ref, &asked.who, asked.ranges, asked.range_count);
    if (play_same_err(play, "ack", err, model.err)) {
        SAME(play, "ack: unacked", ack.unacked, model.unacked);
        compare_late(play, &asked, late, ack.expired_count, &model);
    }
    play_note(play, op, asked.client, 0);
}

static uint64_t
nack_delay_ms(const struct play_op *op)
{
    static const uint64_t delays_ms[] = {
        QLOG_DELAY_BACKOFF, QLOG_DELAY_BACKOFF, QLOG_DELAY_BACKOFF, 0, 1500, REF_KEEP_MS + 1,
    };
    return delays_ms[op->numbers[4] % 6];
}

void
play_nack(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_range late[4];
    struct play_op one = *op;
    one.numbers[5] = 1; /* one range: the place of the second is the error's */
    asked_ranges(&asked, &one);
    if (asked.range_count == 0) return;
    uint8_t error = (uint8_t)(op->numbers[5] % 4);
    char text[16] = "";
    if (error != 0) (void)snprintf(text, sizeof(text), "error %u", error);
    struct qlog_nack nack = {
        .request = { .kind = QLOG_NACK },
        .who = consumer_name(&asked),
        .ranges = asked.ranges,
        .range_count = asked.range_count,
        .delay_ms = nack_delay_ms(op),
        .error = q_bytes_from_text(text),
        .expired = late,
        .expired_max = 4,
    };
    play_tell(
        play, "    %llu to %llu", (unsigned long long)asked.ranges[0].first,
        (unsigned long long)asked.ranges[0].last);
    enum q_err err = machine_run(&play->machine, &nack.request);
    struct ref_answer model =
        ref_nack(&play->ref, &asked.who, asked.ranges, asked.range_count, nack_delay_ms(op), error);
    if (play_same_err(play, "nack", err, model.err)) {
        SAME(play, "nack: unacked", nack.unacked, model.unacked);
        SAME(play, "nack: dead", nack.dead_count, model.dying);
        compare_late(play, &asked, late, nack.expired_count, &model);
    }
    if (model.dying > 0) play->plain = false;
    play_note(play, op, asked.client, 0);
}

/* --- Once more. */

void
play_note(
    struct play *play, const struct play_op *op, const struct client *before, uint64_t session)
{
    /* With a second frame (a seal, or a statement) it can't be told whether its own is there. */
    uint64_t tail = machine_actions_end(&play->machine);
    if (play->log_count == PLAY_LOG_MAX || tail > play->tail + FRAME) play->plain = false;
    if (!play->plain) return;
    play->log[play->log_count++] = (struct logged){
        .op = *op,
        .now_ms = play->ref.state.now_ms,
        .end = play->ref.state.end,
        .tail = tail,
        .session = session,
        .client = *before,
    };
}

void
play_again(struct play *play, struct logged *logged)
{
    struct play_op op = logged->op;
    struct asked asked = asked_of(play, &op);
    asked.client = &logged->client;
    asked.who.session = logged->client.session;
    struct ref_pull pull = pull_of(&op, &asked);
    if (op.kind == PLAY_nack) op.numbers[5] = 1;
    asked_ranges(&asked, &op);
    switch (op.kind) {
    case PLAY_join:
        asked.who.session = logged->session;
        (void)model_join(play, &op, &asked, logged->next, logged->cursor);
        break;
    case PLAY_leave:
        (void)ref_leave(&play->ref, &asked.who);
        break;
    case PLAY_keep:
        (void)ref_keep_alive(&play->ref, &asked.who);
        break;
    case PLAY_pull:
        (void)ref_pull(&play->ref, &pull);
        break;
    case PLAY_ack:
        (void)ref_ack(&play->ref, &asked.who, asked.ranges, asked.range_count);
        break;
    default:
        (void)ref_nack(
            &play->ref, &asked.who, asked.ranges, asked.range_count, nack_delay_ms(&op),
            (uint8_t)(logged->op.numbers[5] % 4));
        break;
    }
}
