/* Named pipes, as the service makes them: the client's end is overlapped. One thread serves ours, those of scripted
 * processes; real children are given theirs. */
#include "double.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#define SIZE 65536

typedef struct chunk {
    size_t size, done;
    struct chunk *next;
    char data[];
} chunk;

struct pipe_end {
    HANDLE ours;
    OVERLAPPED overlapped;
    int stream; /* 0: what the process is told */
    int pending, ending, closed;
    process *of;
    chunk *chunks, **last;
    pipe_end *next;
    char data[4096];
};

static HANDLE port;
static pipe_end *ends;

int new_pipe(int stream, int for_child, HANDLE *theirs, HANDLE *ours)
{
    static LONG count;
    WCHAR name[80];
    swprintf(name, 80, L"\\\\.\\pipe\\vmcompute-double-%lu-%ld", GetCurrentProcessId(), InterlockedIncrement(&count));
    DWORD access = stream ? PIPE_ACCESS_INBOUND : PIPE_ACCESS_OUTBOUND; /* no more than is needed */
    *theirs = CreateNamedPipeW(name, access | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE,
                               PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT, 1, SIZE, SIZE, 0, NULL);
    if (*theirs == INVALID_HANDLE_VALUE)
        return 0;
    SECURITY_ATTRIBUTES inherited = {sizeof inherited, NULL, for_child};
    *ours = CreateFileW(name, stream ? GENERIC_WRITE : GENERIC_READ, 0, &inherited, OPEN_EXISTING,
                        for_child ? 0 : FILE_FLAG_OVERLAPPED, NULL);
    if (*ours == INVALID_HANDLE_VALUE) {
        CloseHandle(*theirs);
        return 0;
    }
    return 1;
}

static void let_go(pipe_end *end)
{
    if (!end->closed) {
        end->closed = 1;
        CloseHandle(end->ours);
        if (end->of && end->of->ends[end->stream] == end)
            end->of->ends[end->stream] = NULL;
    }
    if (end->pending)
        return; /* its memory is the system's until then */
    for (pipe_end **place = &ends; *place; place = &(*place)->next)
        if (*place == end) {
            *place = end->next;
            break;
        }
    while (end->chunks) {
        chunk *it = end->chunks;
        end->chunks = it->next;
        free(it);
    }
    if (end->of)
        drop_process(end->of);
    free(end);
}

static void read_more(pipe_end *end)
{
    memset(&end->overlapped, 0, sizeof end->overlapped);
    if (ReadFile(end->ours, end->data, sizeof end->data, NULL, &end->overlapped) || GetLastError() == ERROR_IO_PENDING) {
        end->pending = 1;
        return;
    }
    end->of->input_closed = 1;
    touch();
    let_go(end);
}

static void push(pipe_end *end)
{
    while (end->chunks && !end->pending) {
        chunk *it = end->chunks;
        size_t size = it->size - it->done;
        memset(&end->overlapped, 0, sizeof end->overlapped);
        if (WriteFile(end->ours, it->data + it->done, (DWORD)(size > SIZE ? SIZE : size), NULL, &end->overlapped) ||
            GetLastError() == ERROR_IO_PENDING) {
            end->pending = 1;
            return;
        }
        end->chunks = it->next; /* nobody reads any more */
        if (!end->chunks)
            end->last = &end->chunks;
        free(it);
    }
    if (end->ending && !end->pending)
        let_go(end);
}

static DWORD WINAPI serve(void *unused)
{
    for (;;) {
        DWORD size = 0;
        ULONG_PTR key = 0;
        OVERLAPPED *overlapped = NULL;
        BOOL done = GetQueuedCompletionStatus(port, &size, &key, &overlapped, INFINITE);
        if (!overlapped)
            continue;
        EnterCriticalSection(&lock);
        pipe_end *end = CONTAINING_RECORD(overlapped, pipe_end, overlapped);
        end->pending = 0;
        touch();
        if (end->closed) {
            let_go(end);
        } else if (end->stream == 0) {
            if (!done) {
                end->of->input_closed = 1;
                let_go(end);
            } else {
                if (keep_calls)
                    put_bytes(&end->of->given, end->data, size);
                if (end->of->echo && end->of->ends[1])
                    pipe_write(end->of->ends[1], end->data, size);
                read_more(end);
            }
        } else {
            chunk *it = end->chunks;
            it->done += size;
            if (!done || it->done >= it->size) {
                end->chunks = it->next;
                if (!end->chunks)
                    end->last = &end->chunks;
                free(it);
            }
            push(end);
        }
        LeaveCriticalSection(&lock);
    }
    return 0;
}

pipe_end *attach(process *p, int stream, HANDLE ours)
{
    if (!port) {
        port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
        CloseHandle(CreateThread(NULL, 0, serve, NULL, 0, NULL));
    }
    pipe_end *end = grown(NULL, sizeof *end);
    memset(end, 0, sizeof *end);
    end->ours = ours;
    end->stream = stream;
    end->of = p;
    end->last = &end->chunks;
    end->next = ends;
    ends = end;
    hold_process(p);
    p->ends[stream] = end;
    CreateIoCompletionPort(ours, port, 1, 0);
    if (stream == 0)
        read_more(end);
    return end;
}

void pipe_write(pipe_end *end, const char *data, size_t size)
{
    if (!size || end->ending || end->closed)
        return;
    chunk *made = grown(NULL, sizeof *made + size);
    *made = (chunk){size};
    memcpy(made->data, data, size);
    *end->last = made;
    end->last = &made->next;
    push(end);
}

void pipe_end_output(pipe_end *end)
{
    if (!end->ending) {
        end->ending = 1;
        push(end);
    }
}

int pipes_busy(void)
{
    for (pipe_end *end = ends; end; end = end->next)
        if (end->chunks && !end->closed)
            return 1;
    return 0;
}

/* All that is left, at once; what the system still has of them is freed when it gives it back. */
void close_pipes(void)
{
    for (pipe_end *end = ends, *next; end; end = next) {
        next = end->next;
        if (end->pending)
            CancelIoEx(end->ours, &end->overlapped);
        let_go(end);
    }
}
