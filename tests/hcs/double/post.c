/* Time and delivery: what happens later, and notifications on threads of the service's own. */
#include "double.h"

#include <stdlib.h>

#define POSTMEN 8

/* the clock: one thread that does things when they are due */

typedef struct due {
    ULONGLONG at;
    deed what;
    void *subject;
    DWORD number;
    HRESULT status;
    char *data;
    struct due *next;
} due;

static due *first_due;
static int dues;
static LARGE_INTEGER frequency;

static ULONGLONG microseconds(void)
{
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return (ULONGLONG)now.QuadPart / frequency.QuadPart * 1000000 + (ULONGLONG)now.QuadPart % frequency.QuadPart * 1000000 / frequency.QuadPart;
}

/* The lock is held here and by what is called. Whoever asks keeps `subject` alive until then. */
void after(int ms, deed what, void *subject, DWORD number, HRESULT status, const char *data)
{
    if (ms <= 0) {
        what(subject, number, status, data);
        return;
    }
    due *made = grown(NULL, sizeof *made), **place = &first_due;
    *made = (due){microseconds() + (ULONGLONG)ms * 1000, what, subject, number, status, copy_of(data)};
    while (*place && (*place)->at <= made->at)
        place = &(*place)->next;
    made->next = *place;
    *place = made;
    dues++;
    WakeAllConditionVariable(&changed);
}

int clock_pending(void)
{
    return dues;
}

static DWORD WINAPI tick(void *unused)
{
    EnterCriticalSection(&lock);
    for (;;) {
        ULONGLONG now = microseconds();
        if (first_due && first_due->at <= now) {
            due *it = first_due;
            first_due = it->next;
            it->what(it->subject, it->number, it->status, it->data);
            dues--;
            free(it->data);
            free(it);
            continue;
        }
        DWORD wait = first_due ? (DWORD)((first_due->at - now + 999) / 1000) : INFINITE;
        SleepConditionVariableCS(&changed, &lock, wait);
    }
    return 0;
}

void forget_later(void)
{
    while (first_due) {
        due *it = first_due;
        first_due = it->next;
        free(it->data);
        free(it);
    }
    dues = 0;
}

/* the post: each registration has a box, whose letters are delivered one after the other */

typedef struct letter {
    DWORD type;
    HRESULT status;
    WCHAR *data;
    system_ *told;
    struct letter *next;
} letter;

struct box {
    callback call;
    void *context;
    letter *letters, **end;
    int delivering, waiting, closed;
    box *next;
};

static box *first_box, **last_box = &first_box;
static int working;

box *new_box(callback call, void *context)
{
    box *made = grown(NULL, sizeof *made);
    *made = (box){call, context};
    made->end = &made->letters;
    return made;
}

static void free_letter(letter *it)
{
    if (it->told)
        drop_system(it->told);
    free(it->data);
    free(it);
}

static void queue(box *it)
{
    it->waiting = 1;
    it->next = NULL;
    *last_box = it;
    last_box = &it->next;
    WakeAllConditionVariable(&changed);
}

void post_to(box *to, DWORD type, HRESULT status, const char *data, system_ *told)
{
    touch();
    if (!to || to->closed)
        return;
    letter *made = grown(NULL, sizeof *made);
    *made = (letter){type, status, utf16(data), told};
    if (told)
        hold_system(told);
    *to->end = made;
    to->end = &made->next;
    if (!to->delivering && !to->waiting)
        queue(to);
}

void close_box(box *of)
{
    of->closed = 1;
    while (of->delivering)
        SleepConditionVariableCS(&changed, &lock, INFINITE);
    for (box **place = &first_box; *place; place = &(*place)->next)
        if (*place == of) {
            *place = of->next;
            if (!*place)
                last_box = place;
            break;
        }
    while (of->letters) {
        letter *it = of->letters;
        of->letters = it->next;
        free_letter(it);
    }
    free(of);
}

int post_busy(void)
{
    return first_box != NULL || working;
}

static DWORD WINAPI deliver(void *unused)
{
    EnterCriticalSection(&lock);
    for (;;) {
        while (!first_box)
            SleepConditionVariableCS(&changed, &lock, INFINITE);
        box *it = first_box;
        first_box = it->next;
        if (!first_box)
            last_box = &first_box;
        it->waiting = 0;
        letter *mail = it->letters;
        if (!mail)
            continue;
        it->letters = mail->next;
        if (!it->letters)
            it->end = &it->letters;
        it->delivering = 1;
        working++;
        LeaveCriticalSection(&lock);
        it->call(mail->type, it->context, mail->status, mail->data);
        EnterCriticalSection(&lock);
        touch();
        if (mail->type == SYSTEM_EXITED && mail->told)
            mail->told->exit_delivered = 1;
        free_letter(mail);
        working--;
        it->delivering = 0;
        if (it->letters && !it->closed)
            queue(it);
        WakeAllConditionVariable(&changed);
    }
    return 0;
}

void start_post(void)
{
    QueryPerformanceFrequency(&frequency);
    CloseHandle(CreateThread(NULL, 0, tick, NULL, 0, NULL));
    for (int i = 0; i < POSTMEN; i++)
        CloseHandle(CreateThread(NULL, 0, deliver, NULL, 0, NULL));
}
