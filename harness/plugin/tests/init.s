# The only program of the test's guest. It writes eight bytes for each batch, the time-stamp
# counter's difference, to the debug console; when its last argument is @, it writes
# /proc/kallsyms before.
.macro marker number
    .byte 0x0f, 0x1f, 0x84, 0x00, \number, 0x4b, 0x54, 0x4b
.endm
.macro begin
    marker 1
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r15, rax
.endm
.globl kgate_test_init
.globl kgate_test_init_end
.balign 16
kgate_test_init:
    mov rbx, [rsp]          # argc
    mov rbx, [rsp + rbx * 8]
    movzx ebx, byte ptr [rbx]
    sub rsp, 65536
    mov eax, 172            # iopl(3)
    mov edi, 3
    syscall
    cmp bl, 0x40
    jne 3f
    mov eax, 165            # mount("proc", "/proc", "proc", 0, 0)
    lea rdi, [rip + 91f]
    lea rsi, [rip + 92f]
    mov rdx, rdi
    xor r10d, r10d
    xor r8d, r8d
    syscall
    mov eax, 2              # open
    lea rdi, [rip + 93f]
    xor esi, esi
    syscall
    mov r12, rax
2:  xor eax, eax            # read
    mov rdi, r12
    mov rsi, rsp
    mov edx, 65536
    syscall
    mov rcx, rax
    test rax, rax
    jle 3f
    mov rsi, rsp
    mov edx, 0xe9
    rep outsb
    jmp 2b

    # First segment: 10 batches of 200 times getppid.
3:  marker 3
    mov r14d, 10
4:  begin
    mov ebx, 200
5:  mov eax, 110
    syscall
    dec ebx
    jnz 5b
    rdtsc
    marker 2
    lea r13, [rip + 6f]
    jmp 90f
6:  dec r14d
    jnz 4b

    # Second segment: 10 batches of one mapping, 16 page faults and its end.
    marker 3
    mov r14d, 10
7:  begin
    mov eax, 9
    xor edi, edi
    mov esi, 65536
    mov edx, 3
    mov r10d, 0x22
    mov r8, -1
    xor r9d, r9d
    syscall
    mov r12, rax
    mov ebx, 16
8:  mov byte ptr [rax], 1
    add rax, 4096
    dec ebx
    jnz 8b
    mov eax, 11
    mov rdi, r12
    mov esi, 65536
    syscall
    rdtsc
    marker 2
    lea r13, [rip + 9f]
    jmp 90f
9:  dec r14d
    jnz 7b
    xor eax, eax
    out 0xf4, al

90: shl rdx, 32
    or rax, rdx
    sub rax, r15
    mov [rsp], rax
    mov rsi, rsp
    mov ecx, 8
    mov edx, 0xe9
    rep outsb
    jmp r13
91: .asciz "proc"
92: .asciz "/proc"
93: .asciz "/proc/kallsyms"
kgate_test_init_end:
