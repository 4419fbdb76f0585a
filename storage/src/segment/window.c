#include "segment/window.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbase/clock.h>

enum {
    PIECE_BYTES = 1024 * 1024,
    ROOM_BYTES = 8 * 1024 * 1024
};

static uint64_t window_wanted(
    const struct ql_window *window, uint64_t position, uint64_t need, uint64_t limit);
static bool window_has(
    const struct ql_window *window, const struct ql_segment *segment, uint64_t position);
static int window_need_room(struct ql_window *window, uint64_t size);
static uint8_t *map_twice(size_t size);
static void window_begin(
    struct ql_window *window, const struct ql_segment *segment, uint64_t position);
static int window_read(struct ql_window *window, uint64_t need, uint64_t wanted);
static int window_ask(struct ql_window *window, uint64_t wanted);
static int window_take(struct ql_window *window);
static int window_read_alone(struct ql_window *window, uint64_t position, uint64_t need, int error);
static void window_forget(struct ql_window *window);
static int piece_wait(struct ql_window *window, struct ql_window_piece *piece);

static uint8_t *
window_at(const struct ql_window *window, uint64_t position)
{
    return window->memory + (position - window->start) % window->room;
}

void
ql_window_init(struct ql_window *window, struct qlog_io *io)
{
    *window = (struct ql_window){ .io = io };
}

void
ql_window_fini(struct ql_window *window)
{
    window_forget(window);
    if (window->memory != NULL) (void)munmap(window->memory, 2 * window->room);
    *window = (struct ql_window){ .io = window->io };
}

int
ql_window_load(
    struct ql_window *window,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size,
    uint64_t limit,
    const uint8_t **ret_data)
{
    uint64_t need = position + size;
    bool known = window_has(window, segment, position);
    bool ahead = known && (window->ahead || need > window->ready);
    if (size > window->room / 2) {
        int rv = window_need_room(window, size);
        if (rv < 0) return rv;
        known = false;
    }
    if (!known) window_begin(window, segment, position);
    window->ahead = ahead;
    uint64_t wanted = window_wanted(window, position, need, limit);
    int rv = window_read(window, need, wanted);
    if (rv < 0) rv = window_read_alone(window, position, need, rv);
    if (rv < 0) return rv;
    *ret_data = window_at(window, position);
    return 0;
}

/* Up to where to read now. */
static uint64_t
window_wanted(const struct ql_window *window, uint64_t position, uint64_t need, uint64_t limit)
{
    uint64_t end = ql_segment_limit(window->segment);
    if (position < window->bad_to) return need;
    if (!window->ahead && window->asked > window->start) return need;
    if (!window->ahead) return q_max_u64(need, q_min_u64(position + PIECE_BYTES, end));
    uint64_t to = q_min_u64(limit, end);
    /* Whole pieces, for which there is room: each costs a call. */
    uint64_t room = window->room - (window->asked - position);
    if (to > position + window->room) to = window->asked + room / PIECE_BYTES * PIECE_BYTES;
    return q_max_u64(need, to);
}

/* What reads go on from, or wait for, is not overwritten yet. */
static bool
window_has(const struct ql_window *window, const struct ql_segment *segment, uint64_t position)
{
    if (window->segment != segment || segment == NULL) return false;
    return position >= window->start && position <= window->asked &&
           window->asked - position <= window->room;
}

static int
window_need_room(struct ql_window *window, uint64_t size)
{
    size_t room = ROOM_BYTES;
    while (room / 2 < size)
        room *= 2;
    window_forget(window);
    if (window->memory != NULL) (void)munmap(window->memory, 2 * window->room);
    window->room = 0;
    window->memory = map_twice(room);
    if (window->memory == NULL) return -ENOMEM;
    window->room = room;
    return 0;
}

/* NULL: out of memory. */
static uint8_t *
map_twice(size_t size)
{
    int file = memfd_create("qlog-window", MFD_CLOEXEC);
    if (file < 0) return NULL;
    /* Room for both first, so that nothing else can lie there. */
    uint8_t *memory = MAP_FAILED;
    if (ftruncate(file, (off_t)size) == 0)
        memory = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool good = memory != MAP_FAILED;
    for (unsigned i = 0; good && i < 2; i++)
        good = mmap(
                   memory + i * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
                   0) != MAP_FAILED;
    (void)close(file);
    if (!good && memory != MAP_FAILED) (void)munmap(memory, 2 * size);
    return good ? memory : NULL;
}

static void
window_begin(struct ql_window *window, const struct ql_segment *segment, uint64_t position)
{
    window_forget(window);
    window->segment = segment;
    window->start = position;
    window->ready = position;
    window->asked = position;
}

/* Everything below `need`; what follows up to `wanted` is under way, as far as there is room. */
static int
window_read(struct ql_window *window, uint64_t need, uint64_t wanted)
{
    for (;;) {
        int rv = 0;
        while (window->count > 0 && window->pieces[window->first].read.finished && rv == 0)
            rv = window_take(window);
        /* What was read ahead and is not asked for may be as bad as it likes. */
        if (window->ready >= need) return window_ask(window, wanted);
        if (rv == 0) rv = window_ask(window, wanted);
        if (rv == 0) rv = window_take(window);
        if (rv < 0) return rv;
    }
}

static int
window_ask(struct ql_window *window, uint64_t wanted)
{
    bool asked = false;
    while (window->asked < wanted && window->count < QL_WINDOW_PIECES) {
        struct ql_window_piece *piece =
            &window->pieces[(window->first + window->count) % QL_WINDOW_PIECES];
        piece->from = window->asked;
        piece->to = q_min_u64(window->asked + PIECE_BYTES, wanted);
        piece->read = (struct ql_transfer){
            .op = {
                .kind = QLOG_IO_READ,
                .file = window->segment->file,
                .buffer = -1,
                .data = window_at(window, piece->from),
                .length = (uint32_t)(piece->to - piece->from),
                .at = ql_segment_offset(window->segment, piece->from),
            },
        };
        ql_transfer_submit(window->io, &piece->read);
        window->asked = piece->to;
        window->count++;
        asked = true;
    }
    /* On their way while what is here is looked at. */
    return asked ? window->io->table->enter(window->io, 0) : 0;
}

/* Wait for the next piece. It stays where it is if it failed. */
static int
window_take(struct ql_window *window)
{
    struct ql_window_piece *piece = &window->pieces[window->first];
    int rv = piece_wait(window, piece);
    if (rv < 0) return rv;
    window->ready = piece->to;
    window->first = (window->first + 1) % QL_WINDOW_PIECES;
    window->count--;
    return 0;
}

/* Something could not be read: perhaps what was read along with what is asked for. */
static int
window_read_alone(struct ql_window *window, uint64_t position, uint64_t need, int error)
{
    const struct ql_window_piece bad = window->pieces[window->first];
    const struct ql_segment *segment = window->segment;
    bool along = window->count > 0 && (bad.from < position || bad.to > need);
    window_forget(window);
    if (!along) return error;
    window->bad_to = q_max_u64(window->bad_to, bad.to);
    window_begin(window, segment, position);
    int rv = window_read(window, need, need);
    if (rv < 0) window_forget(window);
    return rv;
}

static void
window_forget(struct ql_window *window)
{
    for (; window->count > 0; window->count--) {
        (void)piece_wait(window, &window->pieces[window->first]);
        window->first = (window->first + 1) % QL_WINDOW_PIECES;
    }
    window->segment = NULL;
}

static int
piece_wait(struct ql_window *window, struct ql_window_piece *piece)
{
    while (!piece->read.finished) {
        int rv = window->io->table->enter(window->io, Q_NS_PER_S);
        if (rv < 0) return rv;
    }
    return piece->read.error;
}
