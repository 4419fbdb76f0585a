/*
 * name.c: what subjects, groups and consumers may be called.
 */
#include <qproto/message.h>

static enum q_err check_dead(const char *rest);
static bool is_name_character(char c);

enum q_err
qproto_check_name(const char *what, const char *name, size_t length_max)
{
    size_t length = strlen(name);

    if (length == 0) return Q_FAIL(Q_INVALID, .what = q_text("the %s is empty", what));
    if (length > length_max)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("the %s has %zu characters, at most %zu fit", what, length, length_max));

    for (size_t at = 0; at < length; at++) {
        if (is_name_character(name[at])) continue;
        if (name[at] == '%')
            return Q_FAIL(
                Q_INVALID, .what = q_text("the %s has a '%%' at %zu", what, at),
                .hint = "'%' is reserved for internal names");
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("the %s has byte 0x%02x at %zu", what, (unsigned char)name[at], at),
            .hint = "use letters, digits, '.', '_' and '-'");
    }
    return Q_OK;
}

enum q_err
qproto_check_read_subject(const char *name)
{
    size_t prefix = strlen(QPROTO_DEAD_PREFIX);
    if (strncmp(name, QPROTO_DEAD_PREFIX, prefix) == 0) return check_dead(name + prefix);
    return qproto_check_name("subject", name, QPROTO_SUBJECT_MAX);
}

static enum q_err
check_dead(const char *rest)
{
    size_t length = strcspn(rest, "%");
    if (!rest[length])
        return Q_FAIL(
            Q_INVALID, .what = "a subject of dead letters without a group",
            .hint = "write it " QPROTO_DEAD_PREFIX "SUBJECT%GROUP");
    if (length > QPROTO_SUBJECT_MAX)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "the subject has %zu characters, at most %d fit", length, QPROTO_SUBJECT_MAX));
    char subject[QPROTO_SUBJECT_MAX + 1];
    memcpy(subject, rest, length);
    subject[length] = '\0';
    Q_TRY(qproto_check_name("subject", subject, QPROTO_SUBJECT_MAX));
    return qproto_check_name("group", rest + length + 1, QPROTO_GROUP_MAX);
}

const char *
qproto_routed_subject(const char *name, char out[QPROTO_SUBJECT_MAX + 1])
{
    size_t prefix = strlen(QPROTO_DEAD_PREFIX);
    bool is_dead = strncmp(name, QPROTO_DEAD_PREFIX, prefix) == 0;
    const char *from = is_dead ? name + prefix : name;
    size_t length = q_min_u64(strcspn(from, "%"), QPROTO_SUBJECT_MAX);
    memcpy(out, from, length);
    out[length] = '\0';
    return out;
}

/* Not isalnum(): names don't depend on the user's language. */
static bool
is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}
