;; A recipe by hand, for tests: a queue of waiters with a timer, and one method for each way to misbehave.
;;
;; Methods, told apart by their first letter:
;;   echo   answers its arguments                     park   waits under the tag "w", for 1 s if it has arguments
;;   free   answers the first waiter with its arguments, and says "1", or "0" if nobody waited
;;   own    creates the caller's ephemeral znode "own"    make   creates the znode "made" with its arguments
;;   later  sets the timer "t" 100 ms from now        tell   emits the event "news" and notifies the caller
;;   look   (query) reads "made"                      bad    creates the znode "made", then traps
;;   never  loops   deep  recurses   grow  takes memory   huge  reads its own memory's end   zap  asks for one host call too many
;;   fail   fails with `conflict` and its arguments as words
;;   x      creates the znode "bad": from then on hooks trap
;; Hooks: a session's end, a lost call and a timer answer the first waiter with "gone", "lost" and "time".
(module
  (import "quorate:recipe/context@1.0.0" "now-ms" (func $now (result i64)))
  (import "quorate:recipe/context@1.0.0" "get-caller" (func $caller (param i32)))
  (import "quorate:recipe/tree@1.0.0" "get" (func $get (param i32 i32 i32)))
  (import "quorate:recipe/tree@1.0.0" "create" (func $create (param i32 i32 i32 i32 i32 i64 i32)))
  (import "quorate:recipe/calls@1.0.0" "complete" (func $complete (param i64 i32 i32 i32 i32) (result i32)))
  (import "quorate:recipe/calls@1.0.0" "list-parked" (func $parked (param i32 i32 i32 i32 i64 i32 i32)))
  (import "quorate:recipe/timers@1.0.0" "set" (func $timer (param i32 i32 i64 i32 i32 i32)))
  (import "quorate:recipe/events@1.0.0" "emit" (func $emit (param i32 i32 i32 i32)))
  (import "quorate:recipe/events@1.0.0" "notify" (func $notify (param i64 i32 i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 8192))

  ;; Texts at 0, what host calls return at 1024, what exports return at 2048.
  (data (i32.const 0) "basic1.0.0")
  (data (i32.const 16) "echoparkfreeownmakelatertelllookbadneverdeepgrowhugezapfailx")
  (data (i32.const 96) "w")
  (data (i32.const 100) "own")
  (data (i32.const 104) "made")
  (data (i32.const 108) "t")
  (data (i32.const 112) "news")
  (data (i32.const 116) "bad")
  (data (i32.const 120) "gonelosttime")
  (data (i32.const 140) "01")
  ;; The descriptor, and behind it its methods: name, read-only, may-park, doc.
  (data (i32.const 200)
    "\00\00\00\00\05\00\00\00" "\05\00\00\00\05\00\00\00" "\01\00\00\00" "\01\00\00\00"
    "\00\01\00\00\10\00\00\00" "\00\00\00\00\00\00\00\00" "\01\01\00\00")
  (data (i32.const 256)
    "\10\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\14\00\00\00\04\00\00\00\00\01\00\00\00\00\00\00\00\00\00\00"
    "\18\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\1c\00\00\00\03\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\1f\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\23\00\00\00\05\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\28\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\2c\00\00\00\04\00\00\00\01\00\00\00\00\00\00\00\00\00\00\00"
    "\30\00\00\00\03\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\33\00\00\00\05\00\00\00\01\00\00\00\00\00\00\00\00\00\00\00"
    "\38\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\3c\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\40\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\44\00\00\00\03\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\47\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00"
    "\4b\00\00\00\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (block $fits
      (loop $more
        (br_if $fits (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
        (drop (memory.grow (i32.const 1)))
        (br $more)))
    (local.get $at))

  (func (export "quorate:recipe/handler@1.0.0#describe") (result i32) (i32.const 200))

  (func $nothing (result i32)
    (i32.store8 (i32.const 2048) (i32.const 0))
    (i32.const 2048))

  (func (export "quorate:recipe/handler@1.0.0#init") (result i32) (call $nothing))

  (func $reply (param $at i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 0))
    (i32.store8 (i32.const 2056) (i32.const 0))
    (i32.store (i32.const 2064) (local.get $at))
    (i32.store (i32.const 2068) (local.get $len))
    (i32.const 2048))

  ;; Answers the first waiter; says whether there was one.
  (func $answer_first (param $at i32) (param $len i32) (result i32)
    (call $parked (i32.const 1) (i32.const 96) (i32.const 1) (i32.const 0) (i64.const 0) (i32.const 1) (i32.const 1024))
    (if (i32.eqz (i32.load (i32.const 1028))) (then (return (i32.const 0))))
    (call $complete (i64.load (i32.load (i32.const 1024))) (i32.const 0) (local.get $at) (local.get $len) (i32.const 0)))

  ;; Traps where the znode "bad" is.
  (func $check
    (call $get (i32.const 116) (i32.const 3) (i32.const 1024))
    (if (i32.eqz (i32.load8_u (i32.const 1024))) (then unreachable)))

  (func $recurse (param i32) (result i32)
    (i32.add (call $recurse (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))

  (func (export "quorate:recipe/handler@1.0.0#call")
    (param $name i32) (param $name_len i32) (param $args i32) (param $args_len i32) (result i32)
    (local $letter i32)
    (local.set $letter (i32.load8_u (local.get $name)))
    (if (i32.eq (local.get $letter) (i32.const 0x65)) ;; echo
      (then (return (call $reply (local.get $args) (local.get $args_len)))))
    (if (i32.eq (local.get $letter) (i32.const 0x70)) ;; park
      (then
        (i32.store8 (i32.const 2048) (i32.const 0))
        (i32.store8 (i32.const 2056) (i32.const 1))
        (i32.store (i32.const 2064) (i32.const 96))
        (i32.store (i32.const 2068) (i32.const 1))
        (i32.store8 (i32.const 2072) (i32.ne (local.get $args_len) (i32.const 0)))
        (i64.store (i32.const 2080) (i64.add (call $now) (i64.const 1000)))
        (i32.store (i32.const 2088) (i32.const 0))
        (i32.store (i32.const 2092) (i32.const 0))
        (return (i32.const 2048))))
    (if (i32.and (i32.eq (local.get $letter) (i32.const 0x66)) ;; free
                 (i32.eq (i32.load8_u (i32.add (local.get $name) (i32.const 1))) (i32.const 0x72)))
      (then (return (call $reply
        (i32.add (i32.const 140) (call $answer_first (local.get $args) (local.get $args_len))) (i32.const 1)))))
    (if (i32.eq (local.get $letter) (i32.const 0x6f)) ;; own
      (then
        (call $caller (i32.const 1024))
        (call $create (i32.const 100) (i32.const 3) (i32.const 0) (i32.const 0)
          (i32.const 1) (i64.load (i32.const 1032)) (i32.const 1536))
        (return (call $reply (i32.const 140) (i32.const 1)))))
    (if (i32.eq (local.get $letter) (i32.const 0x6d)) ;; make
      (then
        (call $create (i32.const 104) (i32.const 4) (local.get $args) (local.get $args_len)
          (i32.const 0) (i64.const 0) (i32.const 1024))
        (return (call $reply (i32.const 140) (i32.const 1)))))
    (if (i32.and (i32.eq (local.get $letter) (i32.const 0x6c)) ;; later
                 (i32.eq (local.get $name_len) (i32.const 5)))
      (then
        (call $timer (i32.const 108) (i32.const 1) (i64.add (call $now) (i64.const 100)) (i32.const 0) (i32.const 0) (i32.const 1024))
        (return (call $reply (i32.const 140) (i32.const 1)))))
    (if (i32.eq (local.get $letter) (i32.const 0x74)) ;; tell
      (then
        (call $emit (i32.const 112) (i32.const 4) (local.get $args) (local.get $args_len))
        (call $caller (i32.const 1024))
        (call $notify (i64.load (i32.const 1032)) (local.get $args) (local.get $args_len))
        (return (call $reply (i32.const 140) (i32.const 1)))))
    (if (i32.eq (local.get $letter) (i32.const 0x62)) ;; bad
      (then
        (call $create (i32.const 104) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 1024))
        (call $emit (i32.const 112) (i32.const 4) (i32.const 0) (i32.const 0))
        unreachable))
    (if (i32.eq (local.get $letter) (i32.const 0x6e)) ;; never
      (then (loop $again (br $again))))
    (if (i32.eq (local.get $letter) (i32.const 0x64)) ;; deep
      (then (return (call $reply (call $recurse (i32.const 0)) (i32.const 0)))))
    (if (i32.eq (local.get $letter) (i32.const 0x67)) ;; grow
      (then (loop $again (drop (memory.grow (i32.const 16))) (br $again))))
    (if (i32.eq (local.get $letter) (i32.const 0x68)) ;; huge
      (then (return (call $reply (i32.const 0) (i32.const -1)))))
    (if (i32.eq (local.get $letter) (i32.const 0x7a)) ;; zap
      (then (loop $again (drop (call $now)) (br $again))))
    (if (i32.eq (local.get $letter) (i32.const 0x66)) ;; fail
      (then
        (i32.store8 (i32.const 2048) (i32.const 1))
        (i32.store8 (i32.const 2056) (i32.const 5))
        (i32.store (i32.const 2060) (local.get $args))
        (i32.store (i32.const 2064) (local.get $args_len))
        (return (i32.const 2048))))
    (if (i32.eq (local.get $letter) (i32.const 0x78)) ;; x
      (then
        (call $create (i32.const 116) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 1024))
        (return (call $reply (i32.const 140) (i32.const 1)))))
    unreachable)

  (func (export "quorate:recipe/handler@1.0.0#query")
    (param $name i32) (param i32) (param i32 i32) (result i32)
    (if (i32.eq (i32.load8_u (local.get $name)) (i32.const 0x6e)) (then (loop $again (br $again)))) ;; never
    (call $get (i32.const 104) (i32.const 4) (i32.const 1024))
    (i32.store8 (i32.const 2048) (i32.load8_u (i32.const 1024)))
    (if (i32.load8_u (i32.const 1024))
      (then
        (i32.store8 (i32.const 2052) (i32.const 2))
        (i32.store (i32.const 2056) (i32.const 104))
        (i32.store (i32.const 2060) (i32.const 4)))
      (else
        (i32.store (i32.const 2052) (i32.load (i32.const 1032)))
        (i32.store (i32.const 2056) (i32.load (i32.const 1036)))))
    (i32.const 2048))

  (func (export "quorate:recipe/handler@1.0.0#on-session-closed") (param i64 i32 i32 i32 i32 i32) (result i32)
    (call $check)
    (drop (call $answer_first (i32.const 120) (i32.const 4)))
    (call $nothing))
  (func (export "quorate:recipe/handler@1.0.0#on-call-lost") (param i64 i64 i32 i32 i32 i32 i32) (result i32)
    (call $check)
    (drop (call $answer_first (i32.const 124) (i32.const 4)))
    (call $nothing))
  (func (export "quorate:recipe/handler@1.0.0#on-timer") (param i32 i32 i32 i32) (result i32)
    (call $check)
    (drop (call $answer_first (i32.const 128) (i32.const 4)))
    (call $nothing))
  (func (export "quorate:recipe/handler@1.0.0#migrate") (param i32 i32 i32 i32) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 0))
    (i32.store8 (i32.const 2052) (i32.const 0))
    (i32.const 2048)))
