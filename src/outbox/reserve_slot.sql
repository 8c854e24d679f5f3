-- A new slot for a claimed message whose slot has passed unused.
--   $1 account   $2 recipients per second   $3 window   $4 horizon   $5 weight   $6 urgent
SELECT wait_us FROM sms_outbox.reserve_slots($1, $2, $3, $4, ARRAY[$5::integer], ARRAY[$6::boolean])
